//! What can go wrong in the daemon, by what the caller can do about it. `cri` turns it into gRPC codes.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;

/// The daemon's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The daemon's error; the text names the thing, the value and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never work.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{kind} {id:?} is not known")]
    NotFound {
        /// "sandbox", "container", "image".
        kind: &'static str,
        /// As the caller wrote it.
        id: String,
    },
    /// There is no such thing; the text says how to get it.
    #[error("{0}")]
    Missing(String),
    /// The name is taken.
    #[error("{0}")]
    Exists(String),
    /// It is in the wrong state for that.
    #[error("{0}")]
    State(String),
    /// Something that is needed is not there now; a retry may work.
    #[error("{0}")]
    Unavailable(String),
    /// A limit was reached.
    #[error("{0}")]
    Exhausted(String),
    /// It took too long.
    #[error("{0}")]
    Deadline(String),
    /// Who asked for it does not wait for it any more.
    #[error("{0}")]
    Cancelled(String),
    /// husk does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// Credentials are missing or wrong.
    #[error("{0}")]
    Denied(String),
    /// Everything else.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A failed system call on a path.
    pub fn io(what: &str, path: &Path, error: io::Error) -> Error {
        let text = format!("cannot {what} {}: {error}", path.display());
        Error::of_host(&text, &error).unwrap_or(Error::Internal(text))
    }

    /// A failure that comes of the host: it has no more of something, or its disk takes nothing. `text` tells of it, and
    /// the system's error at or behind `error` says whether it is one, and what mends it.
    pub fn of_host(text: &str, error: &(dyn StdError + 'static)) -> Option<Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(told) = error.downcast_ref::<io::Error>().and_then(|error| want(text, error)) {
                return Some(told);
            }
            next = error.source();
        }
        None
    }

    /// An unknown sandbox.
    pub fn no_sandbox(id: &str) -> Error {
        Error::NotFound { kind: "sandbox", id: id.into() }
    }

    /// An unknown container.
    pub fn no_container(id: &str) -> Error {
        Error::NotFound { kind: "container", id: id.into() }
    }
}

fn want(text: &str, error: &io::Error) -> Option<Error> {
    let exhausted = |mend: &str| Some(Error::Exhausted(format!("{text}; {mend}")));
    match (Errno::from_io_error(error), error.kind()) {
        (Some(Errno::MFILE), _) => exhausted("husk may have no more files open: raise its LimitNOFILE"),
        (Some(Errno::NFILE), _) => exhausted("the host has too many files open: raise fs.file-max"),
        (_, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Some(Error::Exhausted(text.into())),
        (_, ErrorKind::WouldBlock) => {
            exhausted("the host, or a limit on husk (TasksMax, pids.max), has no room for it now")
        }
        (_, ErrorKind::OutOfMemory) => exhausted("the host, or husk's cgroup, is out of memory"),
        (_, ErrorKind::ReadOnlyFilesystem) => Some(Error::Unavailable(format!(
            "{text}; the file system is read-only: the host's kernel log says why; mend it and mount it writable"
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_told_with_what_mends_it() {
        let told = |errno: Errno| Error::io("open", Path::new("/x"), errno.into());
        for (errno, words) in [
            (Errno::MFILE, "LimitNOFILE"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::AGAIN, "pids.max"),
            (Errno::NOMEM, "memory"),
            (Errno::NOSPC, "/x"),
            (Errno::DQUOT, "/x"),
        ] {
            let error = told(errno);
            assert!(matches!(&error, Error::Exhausted(text) if text.contains(words)), "{error:?}");
        }
        let error = told(Errno::ROFS);
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("read-only")), "{error:?}");
        assert!(matches!(told(Errno::NOENT), Error::Internal(_)));
    }

    #[test]
    fn what_lies_behind_an_error_counts() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let of = |errno: Errno| Error::of_host("text", &Outer(errno.into()));
        assert!(matches!(of(Errno::MFILE), Some(Error::Exhausted(_))));
        assert!(of(Errno::PERM).is_none());
    }
}
