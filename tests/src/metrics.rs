//! What the agent's metrics say: the text format, as far as tests need it.

/// A scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Wraps a scrape.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self { text }
    }

    /// The sum of the series of a family that have all these labels.
    #[must_use]
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(family, labels).sum()
    }

    /// Whether a family has any series with these labels.
    #[must_use]
    pub fn has(&self, family: &str, labels: &[(&str, &str)]) -> bool {
        self.values(family, labels).next().is_some()
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn values(&self, family: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(family)?;
            let (series, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let has = |label: &String| series.split(',').any(|part| part == label);
            let value = value.split(' ').next()?;
            labels.iter().all(has).then(|| value.parse().ok())?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn series_are_found_by_family_and_labels() {
        let metrics = Metrics::new(
            "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\nb 5\n"
                .to_owned(),
        );
        assert!((metrics.sum("a_total", &[("x", "1")]) - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a_total", &[("y", "3")]) - 4.0).abs() < f64::EPSILON);
        assert!((metrics.sum("b", &[]) - 5.0).abs() < f64::EPSILON);
        assert!(!metrics.has("a", &[]));
    }
}
