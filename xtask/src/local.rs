//! Files that the local stack keeps between runs, in the workspace's ignored `.local` folder.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use testkit::place;

/// Key of backends that use HTTP on the local stack, which listens on 127.0.0.1 only.
pub const BACKEND_KEY: &str = "the-key-of-backends-on-a-local-stack";

/// Data folder of nats-server.
pub fn nats_data() -> PathBuf {
    place::local().join("nats")
}

/// Data folder of Postgres.
pub fn postgres_data() -> PathBuf {
    place::for_postgres().join("postgres")
}

/// Folder of the parts' logs.
pub fn logs() -> PathBuf {
    place::local().join("logs")
}

/// Secret that signs the tokens of the local stack: `JWT_SECRET` if it is set, otherwise a generated one.
pub fn jwt_secret() -> anyhow::Result<String> {
    match std::env::var("JWT_SECRET") {
        Ok(secret) if !secret.is_empty() => Ok(secret),
        _ => secret(&place::local().join("jwt-secret")),
    }
}

/// Password of the local Postgres, kept beside its data, which depends on it.
pub fn postgres_password() -> anyhow::Result<String> {
    secret(&place::for_postgres().join("postgres-password"))
}

/// Removes the stored data of the local stack, but not its secrets, so that issued tokens stay valid.
pub fn remove_data() -> anyhow::Result<()> {
    for folder in [nats_data(), postgres_data()] {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
    }
    Ok(())
}

/// Ensures that only one `up` runs in this checkout, for as long as the file is open.
pub fn lock() -> anyhow::Result<File> {
    let path = place::local().join("up.lock");
    place::create(&place::local())?;
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
    if file.try_lock().is_err() {
        let mut other = String::new();
        file.read_to_string(&mut other)?;
        bail!("the local stack of this checkout is already running, as process {}", other.trim());
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Reads the secret in a file that only its owner may read. Creates it if it is missing.
fn secret(path: &Path) -> anyhow::Result<String> {
    if let Some(folder) = path.parent() {
        place::create(folder)?;
    }
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut bytes))
                .context("read random bytes")?;
            let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(file, "{secret}").with_context(|| format!("write {}", path.display()))?;
            Ok(secret)
        }
        Err(_) => fs::read_to_string(path).with_context(|| format!("read {}", path.display())),
    }
}
