//! Finds the cgroup2 mount in `/proc/self/mountinfo`: its place differs between distributions and is never assumed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Where the root of the cgroup2 hierarchy is mounted; where only a part of it is mounted, that part.
pub(super) fn cgroup2(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<(&str, &str)> = mountinfo.lines().filter_map(cgroup2_mount).collect();
    let whole = mounts.iter().find(|(root, _)| *root == "/");
    let (_, mount_point) = whole.or_else(|| mounts.first())?;
    Some(unescape(mount_point))
}

/// Root and mount point of a line that mounts a cgroup2. The fields are those of proc(5); the ones before the dash vary
/// in number.
fn cgroup2_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let mut mount = mount.split(' ').skip(3);
    let is_cgroup2 = filesystem.next()? == "cgroup2";
    let fields = (mount.next()?, mount.next()?);
    is_cgroup2.then_some(fields)
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = octal.and_then(|_| tail.get(3..)).unwrap_or(tail);
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_where_systemd_puts_it() {
        check(
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
             30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            Some("/sys/fs/cgroup"),
        );
    }

    #[test]
    fn the_mount_is_found_beside_a_first_version() {
        check(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            Some("/sys/fs/cgroup/unified"),
        );
    }

    #[test]
    fn a_mount_of_the_whole_is_preferred_to_one_of_a_part() {
        check(
            "40 23 0:26 /pod /mnt/pod rw - cgroup2 cgroup2 rw\n\
             41 23 0:26 / /sys/fs/cgroup rw shared:1 master:2 - cgroup2 none rw\n",
            Some("/sys/fs/cgroup"),
        );
        check(
            "40 23 0:26 /pod /mnt/pod rw - cgroup2 cgroup2 rw\n",
            Some("/mnt/pod"),
        );
    }

    #[test]
    fn escaped_characters_are_read() {
        check(
            "41 23 0:26 / /a\\040b\\134c rw - cgroup2 none rw\n",
            Some("/a b\\c"),
        );
    }

    #[test]
    fn nothing_is_found_where_nothing_is_mounted_or_lines_are_cut() {
        check("", None);
        check("41 23 0:26\n41 23 0:26 / /a rw -\n - cgroup2\n", None);
    }

    fn check(mountinfo: &str, wanted: Option<&str>) {
        assert_eq!(cgroup2(mountinfo), wanted.map(PathBuf::from));
    }
}
