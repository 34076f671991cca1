//! Finds the program, as Go's exec.LookPath does for runc, and words what goes wrong as it does.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::stat;
use nix::unistd::{AccessFlags, faccessat};

use super::failure::{Result, text};
use super::protocol::{Failure, Reason};
use super::tree::is_directory;

/// The program's path: the name itself when it has a slash (then relative to the working directory), else the first
/// executable file of this name in the directories of PATH.
pub fn find(name: &str, search: &str) -> Result<PathBuf> {
    let path = if name.contains('/') {
        check_named(name)?
    } else {
        search_path(name, search)?
    };
    // Unlike the mode's bits, this heeds the user and a file system mounted noexec.
    match faccessat(AT_FDCWD, &path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(path),
        Err(errno) => Err(not_executable(&path, errno)),
    }
}

/// What execve(2) has failed with. A missing file is here the interpreter: the file itself was found before.
pub fn not_executable(path: &Path, errno: Errno) -> Failure {
    Failure {
        reason: Reason::NotExecutable,
        message: format!("exec {}: {}", path.display(), text(errno)),
    }
}

fn check_named(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    match check(&path) {
        Ok(()) => Ok(path),
        Err(Errno::EACCES) => Err(Failure {
            reason: Reason::NotExecutable,
            message: format!("exec: {name:?}: {}", text(Errno::EACCES)),
        }),
        Err(errno) => Err(not_found(name, &format!("stat {name}: {}", text(errno)))),
    }
}

fn search_path(name: &str, search: &str) -> Result<PathBuf> {
    if name.is_empty() || search.is_empty() {
        return Err(not_found(name, "executable file not found in $PATH"));
    }
    let directories = search
        .split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory });
    match directories
        .map(|directory| Path::new(directory).join(name))
        .find(|path| check(path).is_ok())
    {
        Some(path) if path.is_absolute() => Ok(path),
        Some(_) => Err(not_found(
            name,
            "cannot run executable found relative to current directory",
        )),
        None => Err(not_found(name, "executable file not found in $PATH")),
    }
}

/// Whether a path is a file that somebody may execute.
fn check(path: &Path) -> nix::Result<()> {
    let status = stat(path)?;
    if is_directory(&status) || status.st_mode & 0o111 == 0 {
        Err(Errno::EACCES)
    } else {
        Ok(())
    }
}

fn not_found(name: &str, cause: &str) -> Failure {
    Failure {
        reason: Reason::NotFound,
        message: format!("exec: {name:?}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(name: &str, search: &str) -> (Reason, String) {
        let Failure { reason, message } = find(name, search).unwrap_err();
        (reason, message)
    }

    #[test]
    fn the_first_directory_with_an_executable_wins() {
        assert_eq!(
            find("sh", "/nonexistent:/etc:/bin:/usr/bin").unwrap(),
            Path::new("/bin/sh")
        );
        assert_eq!(find("/bin/sh", "").unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn what_is_missing_reads_as_in_runc() {
        for (name, search, message) in [
            ("foo", "/bin", r#"exec: "foo": executable file not found in $PATH"#),
            ("", "/bin", r#"exec: "": executable file not found in $PATH"#),
            ("sh", "", r#"exec: "sh": executable file not found in $PATH"#),
            (
                "passwd",
                "/etc",
                r#"exec: "passwd": executable file not found in $PATH"#,
            ),
            ("/x", "/bin", r#"exec: "/x": stat /x: no such file or directory"#),
        ] {
            assert_eq!(failure(name, search), (Reason::NotFound, message.to_owned()));
        }
    }

    #[test]
    fn what_is_there_but_no_program_reads_as_in_runc() {
        for name in ["/etc/passwd", "/etc"] {
            let message = format!("exec: {name:?}: permission denied");
            assert_eq!(failure(name, "/bin"), (Reason::NotExecutable, message));
        }
    }
}
