//! `${NAME}` in a text: the environment first, then `.env` beside the
//! configuration. Knows no key.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::{Environment, Fault};

/// Looks names up, and remembers every value it gave out.
pub(super) struct Secrets<'a> {
    environment: Environment<'a>,
    file: PathBuf,
    from_file: BTreeMap<String, String>,
    given: Vec<String>,
}

/// What is wrong with a `${…}`: the problem and the mend.
pub(super) type Misuse = (String, String);

impl<'a> Secrets<'a> {
    /// Reads `.env` in the folder, if there is one. A line of it that cannot
    /// be read is a fault; the line itself is not shown.
    pub(super) fn new(
        folder: &Path,
        environment: Environment<'a>,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let file = folder.join(".env");
        let from_file = read_env(&file, faults);
        Self {
            environment,
            file,
            from_file,
            given: Vec::new(),
        }
    }

    /// What an environment variable holds; not a secret.
    pub(super) fn environment(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// Every value that was substituted.
    pub(super) fn into_given(self) -> Vec<String> {
        self.given
    }

    /// The text with every `${NAME}` replaced; `$${` stands for `${`.
    pub(super) fn substitute(&mut self, text: &str) -> Result<String, Vec<Misuse>> {
        let mut out = String::with_capacity(text.len());
        let mut wrong = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let before = &rest[..start];
            let after = &rest[start + 2..];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = after;
                continue;
            }
            out.push_str(before);
            let Some(end) = after.find('}') else {
                wrong.push((
                    "has a ${ without a }".to_owned(),
                    "write ${NAME}, or $${ for a plain ${".to_owned(),
                ));
                break;
            };
            match self.look_up(&after[..end]) {
                Ok(value) => out.push_str(&value),
                Err(misuse) => wrong.push(misuse),
            }
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        match wrong.is_empty() {
            true => Ok(out),
            false => Err(wrong),
        }
    }

    fn look_up(&mut self, name: &str) -> Result<String, Misuse> {
        if !is_name(name) {
            return Err((
                "has a ${…} whose inside is not a name".to_owned(),
                "write ${NAME} with letters, digits and _ alone, or $${ for a plain ${".to_owned(),
            ));
        }
        let value = self
            .environment(name)
            .or_else(|| self.from_file.get(name).cloned())
            .ok_or_else(|| {
                (
                    format!("${{{name}}} is neither in the environment nor in .env"),
                    format!("add a line {name}=… to {}", self.file.display()),
                )
            })?;
        if !value.is_empty() && !self.given.contains(&value) {
            self.given.push(value.clone());
        }
        Ok(value)
    }
}

fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(word) && text.starts_with(|c: char| !c.is_ascii_digit())
}

fn read_env(file: &Path, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
    let mut fault = |problem: String, mend: &str| {
        faults.push(Fault {
            key: ".env".to_owned(),
            problem,
            mend: mend.to_owned(),
        });
    };
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            fault(
                format!("{} cannot be read: {error}", file.display()),
                "make it a file that this user may read, or remove it",
            );
            return BTreeMap::new();
        }
    };
    let mut bytes = bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(&bytes)
        .to_vec();
    // Its parser takes a last line that ends in a blank for an unfinished one.
    bytes.push(b'\n');

    let lines_read = Cell::new(0);
    let reader = LineByLine {
        bytes: &bytes,
        lines_read: &lines_read,
    };
    let mut values = BTreeMap::new();
    for entry in dotenvy::Iter::new(reader) {
        match entry {
            Ok((name, value)) => {
                values.insert(name, value);
            }
            // The error holds the line's text: of it only its number of lines is used.
            Err(dotenvy::Error::LineParse(text, _)) => {
                // An entry may go on over several lines; the first is the one
                // to name. The text ends with a line break only where the
                // entry has no end.
                let breaks = text.matches('\n').count();
                let more = breaks - usize::from(text.ends_with('\n'));
                let line = lines_read.get().saturating_sub(more);
                fault(
                    format!("line {line} cannot be read"),
                    "write NAME='value', with the value in single quotes \
                     if it holds blanks, quotes, # or $",
                );
            }
            Err(_) => {
                fault(
                    format!("line {} is not UTF-8", lines_read.get()),
                    "save the file as UTF-8",
                );
                break;
            }
        }
    }
    values
}

/// Hands out one line a call. The parser's buffer asks for more only when it
/// has used up what it has, so the count is the line the parser is at.
struct LineByLine<'a> {
    bytes: &'a [u8],
    lines_read: &'a Cell<usize>,
}

impl Read for LineByLine<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let line = match self.bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None => self.bytes.len(),
        };
        let taken = line.min(into.len());
        let (now, later) = self.bytes.split_at(taken);
        into[..taken].copy_from_slice(now);
        self.bytes = later;
        if now.ends_with(b"\n") {
            self.lines_read.set(self.lines_read.get() + 1);
        }
        Ok(taken)
    }
}
