//! Folders of the workspace, of servers' data and of temporary files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    // At run time Cargo sets the folder of the package, which is correct even if the checkout has been moved.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package
        .iter()
        .flat_map(|package| package.ancestors())
        .chain(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors())
        .find(|folder| folder.join("xtask/Cargo.toml").is_file())
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// The project's folder for fetched tools and for the local stack's data. Git ignores it.
pub fn local() -> PathBuf {
    workspace().join(".local")
}

/// The folder for Postgres' files: [`local`], unless this process is root and the user that runs Postgres can't enter
/// it, for example because the checkout is in root's home.
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

/// The folder for temporary data that `user` must be able to enter.
pub(crate) fn temporary(user: Option<User>) -> PathBuf {
    let default = std::env::temp_dir();
    match user {
        Some(user) if !user.can_enter(&default) => PathBuf::from("/tmp"),
        _ => default,
    }
}

/// A system user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
}

impl User {
    /// Whether this user may enter the existing part of `path`.
    fn can_enter(self, path: &Path) -> bool {
        path.ancestors().filter_map(|folder| fs::metadata(folder).ok()).all(|folder| {
            let search_bit = if folder.uid() == self.uid {
                0o100
            } else if folder.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            folder.mode() & search_bit != 0
        })
    }

    /// Creates `folder` if it is missing, and makes this user its owner.
    pub(crate) fn own(self, folder: &Path) -> anyhow::Result<()> {
        create(folder)?;
        chown(folder, Some(self.uid), Some(self.gid))
            .with_context(|| format!("change the owner of {}", folder.display()))
    }
}

/// Creates a folder and its parents, with permissions that let others enter them.
///
/// # Errors
/// If that is not permitted, or the path is not a folder.
pub fn create(folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create(parent)?;
    }
    if let Err(error) = fs::create_dir(folder)
        && !folder.is_dir()
    {
        return Err(error).with_context(|| format!("create {}", folder.display()));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("set the permissions of {}", folder.display()))
}

/// The user that runs Postgres if this process is root, because Postgres refuses to run as root: `postgres`, otherwise
/// `nobody`.
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

/// Whether this process is root.
pub fn is_root() -> bool {
    // A new file belongs to us. A temporary file reveals the owner without an unsafe system call.
    tempfile::tempfile().and_then(|file| file.metadata()).is_ok_and(|file| file.uid() == 0)
}
