//! What is wrong with a configuration, all of it. Knows nothing of how it was
//! found out.

use std::fmt;

use crate::logging;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: a key such as `servers.files.command`, or a file's name.
    pub key: String,
    /// What is wrong. Never holds the value of a secret.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, problem, mend } = self;
        write!(f, "{key}: {problem}; {mend}")
    }
}

/// Everything that is wrong; at least one fault. Displayed one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// In the order of the keys' checks.
    pub faults: Vec<Fault>,
    /// Where to log the faults, if that much could be read.
    pub log: Option<logging::Settings>,
}

impl Faults {
    /// Faults found before anything could be read of the log.
    pub(super) fn before_log(faults: Vec<Fault>) -> Self {
        Self { faults, log: None }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
