//! What is measured, and what came of it: medians over rounds, and ratios within each round.

use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Report, Task};
use serde_json::{Value, json};

/// One thing to measure over several paths, the first of which is no mesh.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) is_less_better: bool,
    pub(crate) paths: Vec<Path<'a>>,
}

/// One path, what is done over it, and the ratio that is to be reached.
pub(crate) struct Path<'a> {
    name: &'static str,
    client: &'a Pod,
    task: Task,
    value: fn(&Report) -> f64,
    goal: Option<f64>,
}

/// What was measured of one path.
pub(crate) struct Outcome {
    subject: &'static str,
    path: &'static str,
    unit: &'static str,
    median: f64,
    ratio: f64,
    goal: Option<f64>,
    is_less_better: bool,
}

impl Subject<'_> {
    /// Measures every path in every round, so that what else the machine does hits all of them.
    pub(crate) fn measure(&self, rounds: usize) -> Vec<Outcome> {
        let mut values = vec![Vec::new(); self.paths.len()];
        let mut ratios = vec![Vec::new(); self.paths.len()];
        for _ in 0..rounds {
            let round: Vec<f64> = self.paths.iter().map(Path::measure).collect();
            let Some(base) = round.first().copied() else {
                continue;
            };
            for ((value, values), ratios) in round.into_iter().zip(&mut values).zip(&mut ratios) {
                values.push(value);
                ratios.push(value / base);
            }
        }
        let outcome = |((path, values), ratios): ((&Path<'_>, Vec<f64>), Vec<f64>)| Outcome {
            subject: self.name,
            path: path.name,
            unit: self.unit,
            median: median(values),
            ratio: median(ratios),
            goal: path.goal,
            is_less_better: self.is_less_better,
        };
        self.paths
            .iter()
            .zip(values)
            .zip(ratios)
            .map(outcome)
            .collect()
    }
}

impl<'a> Path<'a> {
    pub(crate) fn new(
        name: &'static str,
        client: &'a Pod,
        task: Task,
        value: fn(&Report) -> f64,
    ) -> Self {
        Self {
            name,
            client,
            task,
            value,
            goal: None,
        }
    }

    pub(crate) const fn reaching(mut self, ratio: f64) -> Self {
        self.goal = Some(ratio);
        self
    }

    fn measure(&self) -> f64 {
        let report = self.client.measure(self.task.clone());
        let report = report.unwrap_or_else(|failure| panic!("{}: {failure:?}", self.name));
        assert_eq!(report.failed, 0, "{}: {report:?}", self.name);
        (self.value)(&report)
    }
}

impl Outcome {
    fn is_reached(&self) -> Option<bool> {
        let goal = self.goal?;
        Some(if self.is_less_better {
            self.ratio <= goal
        } else {
            self.ratio >= goal
        })
    }

    pub(crate) fn row(&self) -> Vec<String> {
        let goal = self.goal.map_or_else(String::new, |goal| {
            let word = if self.is_reached() == Some(true) {
                "reached"
            } else {
                "missed"
            };
            let sign = if self.is_less_better { "<=" } else { ">=" };
            format!("{sign} {goal:.2} {word}")
        });
        vec![
            self.subject.to_owned(),
            self.path.to_owned(),
            format!("{:.2}", self.median),
            self.unit.to_owned(),
            format!("{:.3}", self.ratio),
            goal,
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "subject": self.subject,
            "path": self.path,
            "unit": self.unit,
            "median": self.median,
            "ratio": self.ratio,
            "goal": self.goal,
            "reached": self.is_reached(),
        })
    }
}

pub(crate) fn per_second(report: &Report) -> f64 {
    to_float(report.succeeded) * 1_000_000.0 / to_float(report.elapsed_micros)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what is measured has no sixteen digits"
)]
pub(crate) const fn to_float(number: u64) -> f64 {
    number as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
