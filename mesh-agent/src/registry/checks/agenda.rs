//! What is to be done when. Pure: the time comes in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::CheckId;
use super::job::Told;
use super::lane::{Lane, Owner, Slot};
use super::target::followed;
use crate::state::check::Check;
use crate::state::endpoint::Endpoint;
use crate::state::object::ObjectKey;
use crate::traffic::health::streak::Streak;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Task {
    /// Make a check.
    Check(CheckId),
    /// Look whether an endpoint has been critical for too long.
    Reap(CheckId),
    /// Look whether a draining endpoint has finished.
    Leave(ObjectKey),
}

/// A check that is made.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) check: Check,
    owner: Owner,
    /// Whom it follows: an endpoint or a service.
    followed: Option<(bool, ObjectKey)>,
    /// Tells the check from another of the same id.
    pub(super) turn: u64,
    /// Whether it is under way, and whether it has to be made once more then.
    running: Option<bool>,
    pub(super) streak: Streak,
    pub(super) told: Option<Told>,
}

/// What is to be done when.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    lanes: BTreeMap<Owner, Lane>,
    times: HashMap<Task, Instant>,
    watched: BTreeMap<CheckId, Watched>,
    /// Checks that follow somebody.
    aliases: HashMap<(bool, ObjectKey), BTreeSet<CheckId>>,
    /// Until when endpoints that are leaving have time; some have as long as they need.
    deadlines: BTreeMap<ObjectKey, Option<Instant>>,
    turns: u64,
}

impl Agenda {
    /// When something may begin next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lanes.values().filter_map(Lane::next).min()
    }

    /// Takes what is due, with a slot to hold while it runs.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Task, Slot)> {
        self.lanes.retain(|_, lane| !lane.is_idle());
        let lanes = self.lanes.values_mut();
        let due = lanes.filter_map(|lane| Some((lane.next()?, lane)));
        let (at, lane) = due.min_by_key(|(at, _)| *at)?;
        if at > now {
            return None;
        }
        let (task, slot) = lane.take()?;
        self.times.remove(&task);
        if let Task::Check(id) = &task
            && let Some(watched) = self.watched.get_mut(id)
        {
            watched.running = Some(false);
        }
        Some((task, slot))
    }

    /// Puts a task at a time, unless it has an earlier one; `None` takes it away.
    pub(super) fn set(&mut self, task: Task, at: Option<Instant>) {
        match (self.times.get(&task).copied(), at) {
            (Some(old), Some(new)) if old <= new => {}
            (old, new) => {
                let owner = self.owner(&task);
                if let Some(old) = old {
                    if let Some(lane) = self.lanes.get_mut(&owner) {
                        lane.remove(old, task.clone());
                    }
                    self.times.remove(&task);
                }
                if let Some(new) = new {
                    let lane = || Lane::new(&owner);
                    let lane = self.lanes.entry(owner.clone()).or_insert_with(lane);
                    lane.add(new, task.clone());
                    self.times.insert(task, new);
                }
            }
        }
    }

    fn owner(&self, task: &Task) -> Owner {
        let watched = match task {
            Task::Check(id) => self.watched.get(id),
            Task::Reap(_) | Task::Leave(_) => None,
        };
        watched.map_or(Owner::Agent, |it| it.owner.clone())
    }

    /// A check that is made.
    pub(super) fn watched(&self, id: &CheckId) -> Option<&Watched> {
        self.watched.get(id)
    }

    /// Takes up the checks of an endpoint as it is now; returns those that are gone. What is new or has changed is due at
    /// once, as is a heartbeat that came back.
    pub(super) fn follow(&mut self, endpoint: &Endpoint, now: Instant) -> Vec<CheckId> {
        let key = endpoint.key();
        let is_wanted = |id: &str| endpoint.spec.checks.iter().any(|it| it.id == id);
        let gone: Vec<CheckId> = self.ids_of(&key).filter(|(_, id)| !is_wanted(id)).collect();
        for id in &gone {
            self.drop_check(id);
        }
        for check in &endpoint.spec.checks {
            let id = (key.clone(), check.id.clone());
            let owner = Owner::of(endpoint, check);
            let is_same = |it: &Watched| it.check == *check && it.owner == owner;
            if !self.watched.get(&id).is_some_and(is_same) {
                self.drop_check(&id);
                self.add(id, endpoint, (check, owner), now);
            } else if check.ttl.is_some() {
                self.hurry(&id, now);
            }
        }
        gone
    }

    fn add(
        &mut self,
        id: CheckId,
        endpoint: &Endpoint,
        (check, owner): (&Check, Owner),
        now: Instant,
    ) {
        self.turns += 1;
        let followed = check.alias.as_ref().map(|it| followed(endpoint, it));
        if let Some(followed) = &followed {
            let followers = self.aliases.entry(followed.clone()).or_default();
            followers.insert(id.clone());
        }
        let watched = Watched {
            check: check.clone(),
            owner,
            followed,
            turn: self.turns,
            running: None,
            streak: Streak::default(),
            told: None,
        };
        self.watched.insert(id.clone(), watched);
        self.set(Task::Check(id), Some(now));
    }

    /// Makes a check at once, or once more when it is under way.
    fn hurry(&mut self, id: &CheckId, now: Instant) {
        let Some(watched) = self.watched.get_mut(id) else {
            return;
        };
        if watched.running.is_some() {
            watched.running = Some(true);
        } else {
            self.set(Task::Check(id.clone()), Some(now));
        }
    }

    /// Somebody has changed whom others follow.
    pub(super) fn hurry_aliases(&mut self, followed: &(bool, ObjectKey)) {
        let followers = self.aliases.get(followed).cloned().unwrap_or_default();
        for id in followers {
            self.hurry(&id, Instant::now());
        }
    }

    /// A check has been made, and is due again at `next`.
    pub(super) fn checked(
        &mut self,
        id: &CheckId,
        turn: u64,
        (streak, told): (Streak, Option<Told>),
        next: Option<Instant>,
    ) {
        let Some(watched) = self.watched.get_mut(id).filter(|it| it.turn == turn) else {
            return;
        };
        let is_again = watched.running.take() == Some(true);
        watched.streak = streak;
        watched.told = told;
        let next = if is_again { Some(Instant::now()) } else { next };
        if next.is_some() {
            self.set(Task::Check(id.clone()), next);
        }
    }

    /// An endpoint is leaving, and looked at first at `first`. It has time until `deadline`, or as long as it needs.
    pub(super) fn leave(&mut self, key: &ObjectKey, deadline: Option<Instant>, first: Instant) {
        if !self.deadlines.contains_key(key) {
            self.deadlines.insert(key.clone(), deadline);
            self.set(Task::Leave(key.clone()), Some(first));
        }
    }

    /// It is not leaving, or not any more.
    pub(super) fn stay(&mut self, key: &ObjectKey) {
        self.deadlines.remove(key);
        self.set(Task::Leave(key.clone()), None);
    }

    /// Whether the time of an endpoint that is leaving is up.
    pub(super) fn is_late(&self, key: &ObjectKey, now: Instant) -> bool {
        let deadline = self.deadlines.get(key);
        deadline.is_none_or(|it| it.is_some_and(|it| it <= now))
    }

    /// Forgets an endpoint; returns its checks.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> Vec<CheckId> {
        let gone: Vec<CheckId> = self.ids_of(key).collect();
        for id in &gone {
            self.drop_check(id);
        }
        self.stay(key);
        gone
    }

    /// The endpoints that are not among those there are.
    pub(super) fn endpoints_without(
        &self,
        is_there: impl Fn(&ObjectKey) -> bool,
    ) -> Vec<ObjectKey> {
        let keys = self.watched.keys().map(|(key, _)| key);
        let keys: BTreeSet<&ObjectKey> = keys.chain(self.deadlines.keys()).collect();
        keys.into_iter()
            .filter(|key| !is_there(key))
            .cloned()
            .collect()
    }

    fn ids_of(&self, key: &ObjectKey) -> impl Iterator<Item = CheckId> {
        let first = (key.clone(), String::new());
        self.watched
            .range(first..)
            .map(|(id, _)| id.clone())
            .take_while(move |(owner, _)| owner == key)
    }

    fn drop_check(&mut self, id: &CheckId) {
        self.set(Task::Check(id.clone()), None);
        self.set(Task::Reap(id.clone()), None);
        let Some(watched) = self.watched.remove(id) else {
            return;
        };
        if let Some(followed) = watched.followed
            && let Some(followers) = self.aliases.get_mut(&followed)
        {
            followers.remove(id);
            if followers.is_empty() {
                self.aliases.remove(&followed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn endpoint(checks: &Value) -> Endpoint {
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
            "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": {"service": "web", "address": "10.0.0.3", "checks": checks}});
        serde_json::from_value(object).unwrap()
    }

    fn id(name: &str) -> CheckId {
        (ObjectKey::new("shop", "web-1"), name.to_owned())
    }

    #[test]
    fn a_check_is_due_at_once_and_then_when_it_says() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        agenda.follow(
            &endpoint(&json!([{"id": "a", "tcp": {"address": "a:1"}}])),
            now,
        );
        let (task, _slot) = agenda.take_due(now).unwrap();
        assert_eq!(task, Task::Check(id("a")));
        assert!(agenda.take_due(now).is_none(), "it is under way");
        let turn = agenda.watched(&id("a")).unwrap().turn;
        let later = now + Duration::from_secs(5);
        agenda.checked(&id("a"), turn, (Streak::default(), None), Some(later));
        assert_eq!(agenda.next(), Some(later));
        agenda.checked(&id("a"), turn + 1, (Streak::default(), None), Some(now));
        assert_eq!(agenda.next(), Some(later), "that was another check");
    }

    /// Takes all that may begin.
    fn take_all(agenda: &mut Agenda, now: Instant) -> Vec<(Task, Slot)> {
        std::iter::from_fn(|| agenda.take_due(now)).collect()
    }

    #[test]
    fn each_owner_waits_only_for_himself() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let asking = |count: usize| {
            let checks =
                (0..count).map(|it| json!({"id": it.to_string(), "tcp": {"address": "a:1"}}));
            endpoint(&checks.collect())
        };
        let named = |mut endpoint: Endpoint, name: &str, address: &str| {
            endpoint.metadata.name = name.to_owned();
            endpoint.spec.address = address.parse().unwrap();
            endpoint
        };
        let of_workload = |address: &str| {
            let mut endpoint = named(asking(20), address, address);
            endpoint.mark_as_of_workload();
            endpoint
        };
        for index in 0..5 {
            let name = format!("operator-{index}");
            agenda.follow(&named(asking(20), &name, "10.0.0.3"), now);
        }
        agenda.follow(&of_workload("10.0.0.4"), now);
        let running = take_all(&mut agenda, now);
        assert_eq!(running.len(), 64 + 8);
        agenda.follow(&of_workload("10.0.0.5"), now);
        let of_other = take_all(&mut agenda, now);
        assert_eq!(of_other.len(), 8);
        assert_eq!(agenda.next(), None, "all who have something to do wait");
        agenda.follow(&endpoint(&json!([{"id": "alive", "ttl": "1s"}])), now);
        let heartbeat = take_all(&mut agenda, now);
        assert_eq!(heartbeat.len(), 1);
        drop(of_other);
        assert_eq!(take_all(&mut agenda, now).len(), 8);
        // Who registers anew has no more than before.
        agenda.forget(&ObjectKey::new("shop", "10.0.0.4"));
        agenda.follow(&of_workload("10.0.0.4"), now);
        let again = take_all(&mut agenda, now).into_iter();
        let again = again
            .filter(|(task, _)| matches!(task, Task::Check((key, _)) if key.name == "10.0.0.4"));
        assert_eq!(again.count(), 0);
        drop(running);
        assert!(agenda.take_due(now).is_some());
    }

    #[test]
    fn a_check_goes_with_its_endpoint_to_another_owner() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let mut endpoint = endpoint(&json!([{"id": "a", "tcp": {"address": "a:1"}}]));
        agenda.follow(&endpoint, now);
        endpoint.mark_as_of_workload();
        agenda.follow(&endpoint, now);
        assert_eq!(take_all(&mut agenda, now).len(), 1, "it is there once");
    }

    #[test]
    fn what_is_changed_is_made_anew_and_what_is_gone_is_forgotten() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let two = json!([{"id": "a", "tcp": {"address": "a:1"}}, {"id": "b", "ttl": "5s"}]);
        agenda.follow(&endpoint(&two), now);
        let turn = agenda.watched(&id("a")).unwrap().turn;
        let one = json!([{"id": "a", "tcp": {"address": "a:2"}}]);
        assert_eq!(agenda.follow(&endpoint(&one), now), [id("b")]);
        assert_ne!(agenda.watched(&id("a")).unwrap().turn, turn);
        assert_eq!(agenda.forget(&id("a").0), [id("a")]);
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn an_earlier_time_stays() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        agenda.set(Task::Reap(id("a")), Some(now));
        agenda.set(Task::Reap(id("a")), Some(later));
        assert_eq!(agenda.next(), Some(now));
        agenda.set(Task::Reap(id("a")), None);
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn followers_are_made_again_also_while_they_are_under_way() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        agenda.follow(
            &endpoint(&json!([{"id": "a", "alias": {"service": "db"}}])),
            now,
        );
        agenda.take_due(now);
        let turn = agenda.watched(&id("a")).unwrap().turn;
        agenda.hurry_aliases(&(false, ObjectKey::new("shop", "db")));
        assert_eq!(agenda.next(), None);
        agenda.checked(&id("a"), turn, (Streak::default(), None), None);
        assert!(agenda.next().is_some(), "what was seen may be old");
        agenda.take_due(Instant::now());
        agenda.checked(&id("a"), turn, (Streak::default(), None), None);
        assert_eq!(agenda.next(), None);
        agenda.hurry_aliases(&(true, ObjectKey::new("shop", "db")));
        assert_eq!(agenda.next(), None, "an endpoint of that name is another");
    }

    #[test]
    fn whoever_leaves_keeps_the_first_deadline() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let key = ObjectKey::new("shop", "web-1");
        let deadline = now + Duration::from_secs(5);
        agenda.leave(&key, Some(deadline), now);
        agenda.leave(&key, Some(deadline + Duration::from_secs(5)), now);
        assert!(!agenda.is_late(&key, now) && agenda.is_late(&key, deadline));
        agenda.stay(&key);
        assert_eq!(agenda.next(), None);
        agenda.leave(&key, None, now);
        assert_eq!(agenda.next(), Some(now));
        let later = now + Duration::from_hours(24);
        assert!(!agenda.is_late(&key, later), "it has as long as it needs");
    }
}
