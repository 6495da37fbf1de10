//! Where things are kept.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The workspace's root.
pub fn workspace() -> PathBuf {
    // Cargo says at run time where the package is, which holds after the checkout has been moved.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package
        .iter()
        .flat_map(|package| package.ancestors())
        .chain(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors())
        .find(|folder| folder.join("xtask/Cargo.toml").is_file())
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// The project's own folder for what is fetched and for the local stack's data; git ignores it.
pub fn local() -> PathBuf {
    workspace().join(".local")
}

/// Where Postgres may have its files: [`local`], unless we are root and the user that Postgres then runs as cannot
/// get there, as in a checkout under root's home.
pub fn for_postgres() -> PathBuf {
    let local = local();
    match postgres_user() {
        Some(user) if !user.can_enter(&local) => {
            let name = workspace().to_string_lossy().trim_start_matches('/').replace('/', "-");
            Path::new("/var/lib/vyzio-realtime").join(name)
        }
        _ => local,
    }
}

/// Where temporary data is kept that `user` must reach.
pub(crate) fn temporary(user: Option<User>) -> PathBuf {
    let usual = std::env::temp_dir();
    match user {
        Some(user) if !user.can_enter(&usual) => PathBuf::from("/tmp"),
        _ => usual,
    }
}

/// A user of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

impl User {
    /// Whether this user may enter `path`, as far as it exists.
    fn can_enter(self, path: &Path) -> bool {
        path.ancestors().filter_map(|folder| fs::metadata(folder).ok()).all(|folder| {
            let enter = if folder.uid() == self.uid {
                0o100
            } else if folder.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            folder.mode() & enter != 0
        })
    }

    /// Creates `folder` where it isn't there yet, and gives it to this user alone.
    pub(crate) fn own(self, folder: &Path) -> anyhow::Result<()> {
        create(folder)?;
        chown(folder, Some(self.uid), Some(self.gid))
            .with_context(|| format!("give away {}", folder.display()))
    }
}

/// Creates a folder and those above it, such that others may enter them.
///
/// # Errors
/// When that is not allowed, or something else is in its place.
pub fn create(folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create(above)?;
    }
    if let Err(error) = fs::create_dir(folder)
        && !folder.is_dir()
    {
        return Err(error).with_context(|| format!("create {}", folder.display()));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("set the permissions of {}", folder.display()))
}

/// Who Postgres, which refuses to run as root, runs as when we are root: `postgres`, else `nobody`.
pub(crate) fn postgres_user() -> Option<User> {
    if !is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(())?;
            let (uid, gid) = (fields.nth(1)?.parse::<i64>().ok()?, fields.next()?.parse::<i64>().ok()?);
            // macOS writes `nobody` as -2.
            Some(User { uid: uid as u32, gid: gid as u32 })
        })
    };
    Some(find("postgres").or_else(|| find("nobody")).unwrap_or(User { uid: 65_534, gid: 65_534 }))
}

/// Whether we are root.
pub fn is_root() -> bool {
    // What we create is ours; a temporary file asks the system without a call that would be unsafe.
    tempfile::tempfile().and_then(|file| file.metadata()).is_ok_and(|file| file.uid() == 0)
}
