//! Files that the settings name and without which the agent begins all the same: they may come, as a mounted folder does.

use std::fs::{self, File};

use super::resolve::RESOLV_CONF;
use super::{Problem, Settings};

impl Settings {
    /// What cannot be read now.
    #[must_use]
    pub fn missing(&self) -> Vec<Problem> {
        let folder = self.sources.files.as_ref();
        let folder = folder.map(|path| ("sources.files", path, fs::read_dir(path).map(drop)));
        // Where nobody has named it, there may be no need of it.
        let resolvers = Some(&self.resolv_conf).filter(|path| path.as_os_str() != RESOLV_CONF);
        let resolvers = resolvers.map(|path| ("resolvConf", path, File::open(path).map(drop)));
        let tried = folder.into_iter().chain(resolvers);
        tried
            .filter_map(|(key, path, tried)| {
                let message = format!("cannot read {}: {}", path.display(), tried.err()?);
                Some(Problem { key, message })
            })
            .collect()
    }
}
