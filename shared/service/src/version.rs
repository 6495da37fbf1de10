//! Version and commit of the running program.

use std::sync::LazyLock;

/// The version of the workspace, which all programs share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, if the build was told it by `GIT_COMMIT`, as that of the images is.
pub const COMMIT: &str = match option_env!("GIT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The version and the commit, as `--version` prints them after the program's name.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (commit {COMMIT})"));
    &TEXT
}
