//! What is measured, and what came of it: medians over rounds, and ratios within each round.

use std::io;

use serde_json::{Value, json};

/// The path without a mesh: the first thing that others are compared with.
pub(crate) const NO_MESH: &str = "no mesh";
/// A relay of tokio and hyper with nothing added.
pub(crate) const BARE: &str = "bare hyper";
/// Envoy, tuned as its own documentation advises.
pub(crate) const ENVOY: &str = "envoy";

/// One thing to measure over several paths.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) paths: Vec<Path<'a>>,
}

/// One path, how it is measured, and what is to be reached.
pub(crate) struct Path<'a> {
    name: &'static str,
    measure: Box<dyn Fn() -> io::Result<Sample> + 'a>,
    goals: Vec<Goal>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In the unit of the subject.
    pub(crate) value: f64,
    /// CPU time of the proxy for one operation, in microseconds; for bulk bytes: for one megabyte.
    pub(crate) cpu_micros: Option<f64>,
}

/// A value to be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    measure: Measure,
    bound: f64,
    is_ceiling: bool,
}

#[derive(Clone, Copy, Debug)]
enum Measure {
    /// The value itself.
    Value,
    /// Divided by that of another path in the same round.
    Ratio(&'static str),
    /// Less that of another path in the same round.
    Added(&'static str),
}

/// What was measured of one path.
pub(crate) struct Outcome {
    subject: &'static str,
    path: &'static str,
    unit: &'static str,
    median: f64,
    cpu_micros: Option<f64>,
    ratios: Vec<(&'static str, f64)>,
    goals: Vec<Reached>,
    failure: Option<String>,
}

struct Reached {
    goal: Goal,
    value: f64,
}

impl Goal {
    /// At least this many times what `base` shows.
    pub(crate) const fn at_least(bound: f64, base: &'static str) -> Self {
        Self {
            measure: Measure::Ratio(base),
            bound,
            is_ceiling: false,
        }
    }

    /// At most this many times what `base` shows.
    pub(crate) const fn at_most(bound: f64, base: &'static str) -> Self {
        Self {
            measure: Measure::Ratio(base),
            bound,
            is_ceiling: true,
        }
    }

    /// At most this much more than what `base` shows.
    pub(crate) const fn adds_at_most(bound: f64, base: &'static str) -> Self {
        Self {
            measure: Measure::Added(base),
            bound,
            is_ceiling: true,
        }
    }

    /// At most this much.
    pub(crate) const fn below(bound: f64) -> Self {
        Self {
            measure: Measure::Value,
            bound,
            is_ceiling: true,
        }
    }

    fn value(&self, own: f64, of: impl Fn(&str) -> Option<f64>) -> Option<f64> {
        match self.measure {
            Measure::Value => Some(own),
            Measure::Ratio(base) => of(base).map(|base| own / base),
            Measure::Added(base) => of(base).map(|base| own - base),
        }
    }

    fn is_reached(&self, value: f64) -> bool {
        if self.is_ceiling {
            value <= self.bound
        } else {
            value >= self.bound
        }
    }
}

impl Reached {
    fn text(&self) -> String {
        let sign = if self.goal.is_ceiling { "<=" } else { ">=" };
        let word = if self.goal.is_reached(self.value) {
            "reached"
        } else {
            "missed"
        };
        let bound = self.goal.bound;
        match self.goal.measure {
            Measure::Value => format!("{sign} {bound} {word}"),
            Measure::Ratio(base) => format!("{sign} {bound:.2} {base} {word}"),
            Measure::Added(base) => format!("{:+.1} {sign} {bound} {base} {word}", self.value),
        }
    }

    fn json(&self) -> Value {
        let (kind, base) = match self.goal.measure {
            Measure::Value => ("value", None),
            Measure::Ratio(base) => ("ratio", Some(base)),
            Measure::Added(base) => ("added", Some(base)),
        };
        json!({
            "kind": kind,
            "to": base,
            "bound": self.goal.bound,
            "isCeiling": self.goal.is_ceiling,
            "value": self.value,
            "reached": self.goal.is_reached(self.value),
        })
    }
}

/// What a value means, given all that was measured in its round.
type Compare<'a> = dyn Fn(f64, &[Option<Sample>]) -> Option<f64> + 'a;

impl Subject<'_> {
    /// Measures every path in every round, so that what else the machine does hits all of them. A path that fails is
    /// left out of the rounds that follow.
    pub(crate) fn measure(&self, rounds: usize) -> Vec<Outcome> {
        let mut failures: Vec<Option<String>> = vec![None; self.paths.len()];
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let round: Vec<Option<Sample>> = (self.paths.iter().zip(&mut failures))
                .map(|(path, failure)| {
                    if failure.is_some() {
                        return None;
                    }
                    let sample = (path.measure)();
                    sample
                        .map_err(|error| *failure = Some(error.to_string()))
                        .ok()
                })
                .collect();
            samples.push(round);
        }
        let outcomes = self.paths.iter().zip(failures).enumerate();
        outcomes
            .map(|(index, (path, failure))| self.outcome(path, index, failure, &samples))
            .collect()
    }

    fn outcome(
        &self,
        path: &Path<'_>,
        index: usize,
        failure: Option<String>,
        rounds: &[Vec<Option<Sample>>],
    ) -> Outcome {
        let at = |round: &[Option<Sample>], index: usize| *round.get(index)?;
        let samples = rounds.iter().filter_map(|round| at(round, index));
        let base = |round: &[Option<Sample>], name: &str| {
            let index = self.paths.iter().position(|path| path.name == name)?;
            at(round, index).map(|sample| sample.value)
        };
        let over_rounds = |of: &Compare<'_>| {
            let values = rounds
                .iter()
                .filter_map(|round| of(at(round, index)?.value, round));
            median(values.collect())
        };
        let ratio = |name: &'static str| {
            let ratio = over_rounds(&|own, round| Some(own / base(round, name)?))
                .filter(|_| path.name != name);
            Some((name, ratio?))
        };
        let goals = path.goals.iter().filter_map(|goal| {
            let value = over_rounds(&|own, round| goal.value(own, |name| base(round, name)));
            Some(Reached {
                goal: *goal,
                value: value?,
            })
        });
        Outcome {
            subject: self.name,
            path: path.name,
            unit: self.unit,
            median: over_rounds(&|own, _| Some(own)).unwrap_or(f64::NAN),
            cpu_micros: median(samples.filter_map(|sample| sample.cpu_micros).collect()),
            ratios: [NO_MESH, BARE, ENVOY]
                .into_iter()
                .filter_map(ratio)
                .collect(),
            goals: goals.collect(),
            failure,
        }
    }
}

impl<'a> Path<'a> {
    pub(crate) fn new(name: &'static str, measure: impl Fn() -> io::Result<Sample> + 'a) -> Self {
        Self {
            name,
            measure: Box::new(measure),
            goals: Vec::new(),
        }
    }

    pub(crate) fn reaching(mut self, goals: &[Goal]) -> Self {
        self.goals.extend(goals);
        self
    }
}

impl Outcome {
    /// The headings of [`Outcome::row`].
    pub(crate) const HEADINGS: [&str; 9] = [
        "measured",
        "path",
        "median",
        "unit",
        "x no mesh",
        "x hyper",
        "x envoy",
        "CPU us",
        "to reach",
    ];

    fn ratio(&self, base: &str) -> Option<f64> {
        let ratio = self.ratios.iter().find(|(name, _)| *name == base);
        ratio.map(|(_, ratio)| *ratio)
    }

    pub(crate) fn row(&self) -> Vec<String> {
        let number = |value: Option<f64>, digits| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        let reached = match &self.failure {
            Some(failure) => format!("failed: {failure}"),
            None => (self.goals.iter().map(Reached::text).collect::<Vec<_>>()).join("; "),
        };
        vec![
            self.subject.to_owned(),
            self.path.to_owned(),
            format!("{:.2}", self.median),
            self.unit.to_owned(),
            number(self.ratio(NO_MESH), 3),
            number(self.ratio(BARE), 2),
            number(self.ratio(ENVOY), 2),
            number(self.cpu_micros, 1),
            reached,
        ]
    }

    pub(crate) fn json(&self) -> Value {
        let goals: Vec<Value> = self.goals.iter().map(Reached::json).collect();
        json!({
            "subject": self.subject,
            "path": self.path,
            "unit": self.unit,
            "median": self.median,
            "cpuMicros": self.cpu_micros,
            "ratio": self.ratio(NO_MESH),
            "ratioToBareHyper": self.ratio(BARE),
            "ratioToEnvoy": self.ratio(ENVOY),
            "goals": goals,
            "failure": self.failure,
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what is measured has no sixteen digits"
)]
pub(crate) const fn to_float(number: u64) -> f64 {
    number as f64
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
