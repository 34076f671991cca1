//! The environment of the process.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::failure::Result;
use super::protocol::{Failure, Reason};
use super::tree::file_type;

/// As much of the container's /etc/passwd as is read: it may be of any size, or a device.
const MAX_PASSWD: u64 = 4 << 20;

/// Names and values, each name once.
#[derive(Debug, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Takes `NAME=value` strings. Of a name that comes again, the last value counts, at the first one's place.
    pub fn new(pairs: &[String]) -> Result<Self> {
        let mut environment = Self::default();
        for pair in pairs {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| refused(format!("invalid environment variable: {pair:?}")))?;
            if name.is_empty() {
                return Err(refused(format!("environment variable name can't be empty: {pair:?}")));
            }
            if pair.contains('\0') {
                return Err(refused(format!("environment variable contains a nul byte: {pair:?}")));
            }
            environment.set(name, value);
        }
        Ok(environment)
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Sets HOME, if it is missing or empty, to the user's in the container's /etc/passwd, or else to the root.
    pub fn complete_home(&mut self, uid: u32) {
        if self.get("HOME").unwrap_or_default().is_empty() {
            let home = home_of(uid)
                .filter(|home| !home.is_empty())
                .unwrap_or_else(|| "/".into());
            self.set("HOME", &home);
        }
    }

    /// Names and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As execve(2) takes it.
    pub fn to_c_strings(&self) -> Result<Vec<CString>> {
        self.0
            .iter()
            .map(|(name, value)| {
                CString::new(format!("{name}={value}")).map_err(|_| refused(format!("{name} contains a nul byte")))
            })
            .collect()
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_owned(),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

fn refused(message: String) -> Failure {
    Failure {
        reason: Reason::Process,
        message: format!("error during container init: {message}"),
    }
}

/// The home directory in the container's /etc/passwd, which may be missing, or anything.
fn home_of(uid: u32) -> Option<String> {
    // Not to block on a FIFO.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(open(Path::new("/etc/passwd"), flags, Mode::empty()).ok()?);
    let status = fstat(&file).ok()?;
    if file_type(&status) != SFlag::S_IFREG {
        return None;
    }
    find_home(BufReader::new(file.take(MAX_PASSWD)), uid)
}

fn find_home(passwd: impl BufRead, uid: u32) -> Option<String> {
    passwd.lines().map_while(std::result::Result::ok).find_map(|line| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        match fields[..] {
            [_, _, id, _, _, home, ..] if id.parse() == Ok(uid) => Some(home.replace('\0', "")),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[&str]) -> Result<Environment> {
        Environment::new(&pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_value_counts_at_the_first_place() {
        let strings = environment(&["A=1", "B=2", "A=3", "C=a=b"])
            .unwrap()
            .to_c_strings()
            .unwrap();
        assert_eq!(strings, [c"A=3".to_owned(), c"B=2".to_owned(), c"C=a=b".to_owned()]);
    }

    #[test]
    fn malformed_variables_are_refused_in_runcs_words() {
        for (pair, message) in [
            ("novalue", r#"invalid environment variable: "novalue""#),
            ("=x", r#"environment variable name can't be empty: "=x""#),
        ] {
            let failure = environment(&[pair]).unwrap_err();
            assert_eq!(failure.message, format!("error during container init: {message}"));
        }
    }

    #[test]
    fn home_is_the_first_entry_of_the_uid() {
        let passwd =
            "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken:x\nu:x:7:7::/home/u:/bin/sh\nv:x:7:7::/home/v:\n";
        assert_eq!(find_home(passwd.as_bytes(), 7).as_deref(), Some("/home/u"));
        assert_eq!(find_home(passwd.as_bytes(), 8), None);
    }
}
