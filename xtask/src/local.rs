//! What the local stack keeps between runs, under the workspace's ignored `.local`.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use testkit::place;

/// Where nats-server keeps its data.
pub fn nats_data() -> PathBuf {
    place::local().join("nats")
}

/// Where Postgres keeps its data.
pub fn postgres_data() -> PathBuf {
    place::for_postgres().join("postgres")
}

/// Where each part's output is written down.
pub fn logs() -> PathBuf {
    place::local().join("logs")
}

/// What signs the tokens of the local stack: `JWT_SECRET` where that is set, else a secret of its own.
pub fn jwt_secret() -> anyhow::Result<String> {
    match std::env::var("JWT_SECRET") {
        Ok(secret) if !secret.is_empty() => Ok(secret),
        _ => secret(&place::local().join("jwt-secret")),
    }
}

/// The password of the local Postgres; kept beside its data, which knows it.
pub fn postgres_password() -> anyhow::Result<String> {
    secret(&place::for_postgres().join("postgres-password"))
}

/// Removes what the local stack has stored, but not its secrets: tokens that were given out stay good.
pub fn remove_data() -> anyhow::Result<()> {
    for folder in [nats_data(), postgres_data()] {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
    }
    Ok(())
}

/// Makes sure that this is the only `up` in this checkout, for as long as the file is open.
pub fn lock() -> anyhow::Result<File> {
    let path = place::local().join("up.lock");
    place::create(&place::local())?;
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
    if file.try_lock().is_err() {
        let mut other = String::new();
        file.read_to_string(&mut other)?;
        bail!("the local stack of this checkout is up already, as process {}", other.trim());
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The secret in a file that only its owner may read; a new one where there is none.
fn secret(path: &Path) -> anyhow::Result<String> {
    if let Some(folder) = path.parent() {
        place::create(folder)?;
    }
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut bytes))
                .context("find entropy")?;
            let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(file, "{secret}").with_context(|| format!("write {}", path.display()))?;
            Ok(secret)
        }
        Err(_) => fs::read_to_string(path).with_context(|| format!("read {}", path.display())),
    }
}
