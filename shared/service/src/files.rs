//! Open files of this process: their number and limit.

use rustix::process::{Resource, getrlimit, setrlimit};
use std::{fs, io};

/// The limit of open files.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit of open files to the hard limit: container runtimes usually set 1,024 and allow more.
pub(crate) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}

/// Sets the metrics of open files.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn measure() {
    metrics::gauge!("process_max_fds").set(limit() as f64);
    match open() {
        Ok(open) => metrics::gauge!("process_open_fds").set(open as f64),
        Err(error) => tracing::debug!(%error, "can't count the open files"),
    }
}

#[cfg(target_os = "linux")]
fn open() -> io::Result<u64> {
    // Since Linux 6.2 the size of the folder is the number of files, so that nothing needs to be listed.
    match fs::metadata("/proc/self/fd")?.len() {
        0 => count("/proc/self/fd"),
        open => Ok(open),
    }
}

#[cfg(not(target_os = "linux"))]
fn open() -> io::Result<u64> {
    count("/dev/fd")
}

fn count(folder: &str) -> io::Result<u64> {
    // One of the files is the listed folder itself.
    Ok(fs::read_dir(folder)?.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        let before = open().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let during = open().unwrap();
        assert!(during >= before + 40 && during < limit(), "{before}, {during}");
        drop(files);
    }
}
