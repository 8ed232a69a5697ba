//! What survives a restart, and what a damaged file does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::state::persist::{EXPORT_NAME, FILE_NAME, SET_ASIDE_NAME};

fn open(directory: &Path) -> Result<Store, OpenError> {
    Store::open(directory, Config::default())
}

/// A directory with a registry of one object per kind.
fn filled() -> (tempfile::TempDir, PathBuf, Arc<Snapshot>) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    assert!(store.is_new());
    store.settle().unwrap();
    put_service(&store, "gone", &[("http", 80, "http")]);
    put_service(&store, "web", &[("http", 80, "http")]);
    put_endpoint(&store, "web-1", &json!({"http": 8080}));
    put_policy(&store, "guard", "Service");
    put(
        &store,
        Kind::Workload,
        "web",
        &json!({"netns": "/run/netns/a"}),
    );
    delete_service(&store, "gone");
    let file = directory.path().join(FILE_NAME);
    let snapshot = store.snapshot();
    (directory, file, snapshot)
}

fn assert_same(left: &Snapshot, right: &Snapshot) {
    assert_eq!(left.revision, right.revision);
    assert_eq!(left.ids, right.ids);
    assert!(left.manifests().eq(right.manifests()));
}

#[test]
fn restart_keeps_objects_numbers_and_revision() {
    let (directory, file, before) = filled();
    let mode = fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let store = open(directory.path()).unwrap();

    assert!(!store.is_new());
    assert_same(&before, &store.snapshot());
    assert_eq!(before.manifests().count(), 4);
    put_service(&store, "next", &[("http", 80, "http")]);
    let next = store.snapshot().ids.number(&Subject::Service(key("next")));
    assert!(next > before.ids.last(), "numbers go on");
}

#[test]
fn second_agent_is_kept_out() {
    let (directory, _, _) = filled();
    let first = open(directory.path()).unwrap();

    for start in [Start::Keep, Start::Reset, Start::Restore] {
        let second = Store::start(directory.path(), Config::default(), start);
        let refused = second.err().unwrap();
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    }
    assert!(directory.path().join(FILE_NAME).exists());
    drop(first);
    assert!(open(directory.path()).is_ok());
}

#[test]
fn unreadable_file_is_refused_left_alone_and_set_aside_on_demand() {
    let (directory, file, _) = filled();
    let whole = fs::read(&file).unwrap();
    let contents = [
        Vec::new(),
        vec![0; whole.len()],
        b"not a database".to_vec(),
        whole[..whole.len() / 3].to_vec(),
    ];
    for content in contents {
        fs::write(&file, &content).unwrap();

        let error = open(directory.path()).err().expect("it is refused");

        let text = error.to_string();
        assert!(
            text.contains(FILE_NAME) && text.contains("--reset"),
            "{error:?}"
        );
        assert!(file.exists());
    }
    let damaged = fs::read(&file).unwrap();
    let store = Store::start(directory.path(), Config::default(), Start::Reset).unwrap();
    assert!(store.is_new());
    assert_eq!(store.snapshot().manifests().count(), 0);
    let aside = directory.path().join(SET_ASIDE_NAME);
    assert_eq!(fs::read(aside).unwrap(), damaged);
}

#[test]
fn damaged_or_lost_registry_is_restored_from_its_export() {
    let (directory, file, before) = filled();
    let place = directory.path();
    let store = open(place).unwrap();
    assert_eq!(store.export(place).unwrap(), before.revision);
    let path = place.join(EXPORT_NAME);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    let restore = || Store::start(place, Config::default(), Start::Restore);

    let healthy = restore().unwrap();
    assert!(!healthy.is_restored(), "a good registry is kept");
    assert_same(&before, &healthy.snapshot());
    drop(healthy);
    for damage in [true, false] {
        if damage {
            fs::write(&file, b"not a database").unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        let store = restore().unwrap();
        assert!(store.is_restored() && !store.is_new());
        let after = store.snapshot();
        assert!(after.manifests().eq(before.manifests()), "with status");
        assert!(after.revision > before.revision, "versions go on");
        assert!(after.ids.iter().eq(before.ids.iter()), "with the numbers");
        assert!(after.ids.last() > before.ids.last(), "which go on");
        drop(store);
        assert_same(&after, &open(place).unwrap().snapshot());
    }
    // Neither is any good: nothing is touched.
    fs::write(&file, b"not a database").unwrap();
    fs::write(&path, "---\n{\"kind\": \"Service\"").unwrap();
    let refused = restore().err().unwrap();
    assert!(matches!(refused, OpenError::Export { .. }), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), b"not a database");
}

#[test]
fn registry_that_was_made_in_place_of_a_lost_one_is_new_until_it_is_settled_and_gives_way_to_the_export()
 {
    let (directory, file, before) = filled();
    let place = directory.path();
    let start = |start| Store::start(place, Config::default(), start).unwrap();
    let store = open(place).unwrap();
    store.export(place).unwrap();
    drop(store);
    fs::remove_file(&file).unwrap();

    let store = start(Start::Keep);
    assert!(store.is_new());
    put_service(&store, "late", &[("http", 80, "http")]);
    drop(store);
    assert!(start(Start::Keep).is_new(), "also at the next start");
    let store = start(Start::Restore);
    assert!(store.is_restored() && !store.is_new());
    assert!(store.snapshot().manifests().eq(before.manifests()));
    drop(store);
    assert!(!start(Start::Keep).is_new());

    // Where it is of no consequence that it is gone, it may still be wanted back.
    fs::remove_file(&file).unwrap();
    let store = start(Start::Keep);
    store.settle().unwrap();
    drop(store);
    assert!(!start(Start::Keep).is_new());
    let store = start(Start::Restore);
    assert!(store.is_restored());
    drop(store);
    // Whoever gives it up does not get it back.
    assert!(start(Start::Reset).is_new());
    assert!(!start(Start::Restore).is_restored());
}

#[test]
fn flipped_bits_are_noticed_or_harmless() {
    let (directory, file, before) = filled();
    let whole = fs::read(&file).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..60 {
        let mut content = whole.clone();
        let place = random.random_range(0..content.len());
        content[place] ^= 1 << random.random_range(0..8);
        fs::write(&file, &content).unwrap();
        if let Ok(store) = open(directory.path()) {
            let after = store.snapshot();
            // The database may fall back to the write before the last one, never to a part of one.
            if after.revision == before.revision {
                assert_same(&before, &after);
            } else {
                assert_eq!(after.revision + 1, before.revision);
            }
        }
    }
}

#[test]
fn missing_registry_is_made_with_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let nested = directory.path().join("a/b");

    let store = Store::start(&nested, Config::default(), Start::Reset).unwrap();

    assert!(store.is_new());
    assert!(nested.join(FILE_NAME).exists());
}

#[test]
fn directory_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();

    let error = open(file.path()).err().unwrap();

    assert!(matches!(error, OpenError::Access { .. }), "{error:?}");
}

/// Mounts a disk of `bytes` at `directory`, for this thread only. Explains itself where that is not possible.
fn mount_small_disk(directory: &Path, bytes: u32) -> bool {
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        })
        .and_then(|()| {
            let size = format!("size={bytes}");
            let flags = MsFlags::empty();
            mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(&*size))
        });
    if let Err(error) = mounted {
        let required = std::env::var_os("MESH_TESTS_REQUIRE").is_some_and(|it| it == "1");
        assert!(!required, "cannot mount a small disk: {error}");
        println!("skipped: cannot mount a small disk: {error}");
        return false;
    }
    true
}

#[test]
fn full_disk_refuses_changes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    if !mount_small_disk(directory.path(), 2 << 20) {
        return;
    }
    let filler = directory.path().join("filler");
    fs::write(&filler, vec![0; 600_000]).unwrap();
    let store = open(directory.path()).unwrap();
    let ports = json!([{"name": "http", "port": 80}]);
    let mut written = 0;
    let refused = loop {
        let spec = json!({"ports": ports, "version": "v".repeat(200)});
        let service = read(Kind::Service, &format!("s{written}"), &spec);
        match store.apply(Change::Put(service)) {
            Ok(_) => written += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refusal::DiskFull), "{refused:?}");
    assert_eq!(store.snapshot().services.len(), written);
    assert_eq!(store.snapshot().revision, written as u64);

    fs::remove_file(&filler).unwrap();
    put_service(&store, "after", &[("http", 80, "http")]);

    let before = store.snapshot();
    drop(store);
    assert_same(&before, &open(directory.path()).unwrap().snapshot());
}
