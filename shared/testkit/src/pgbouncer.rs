//! The roles of `deploy/postgres/init.sql`, and PgBouncer in front of their database.

use crate::{
    database::TestDatabase,
    place,
    ports::free_port,
    process::{Child, Output, Program},
};
use anyhow::Context;
use std::{fs, process::Command, sync::Arc};
use tempfile::TempDir;

/// A PgBouncer in transaction mode. Dropping it stops it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts PgBouncer in front of a database that has the roles of [`create_roles`]. Each role has fewer connections to
    /// Postgres than its service has to PgBouncer, so that they share them.
    ///
    /// # Errors
    /// If PgBouncer is missing or does not start.
    pub fn start(database: &TestDatabase) -> anyhow::Result<Self> {
        let user = place::postgres_user();
        let folder = tempfile::Builder::new().prefix("pgbouncer-").tempdir_in(place::temporary(user))?;
        let port = free_port()?;
        let server = database.authority();
        let (host, server_port) = server.split_once(':').context("Postgres has no port")?;
        let users = folder.path().join("users.txt");
        fs::write(&users, "\"chat\" \"\"\n\"notify\" \"\"\n")?;
        let config = format!(
            "[databases]\n{} = host={host} port={server_port}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             ignore_startup_parameters = extra_float_digits\nmax_client_conn = 200\ndefault_pool_size = 3\n",
            database.name(),
            users.display(),
        );
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, config)?;
        if let Some(user) = user {
            user.own(folder.path())?;
        }
        let process = Program::new("pgbouncer")
            .arg("--quiet")
            .arg(&file)
            .user(user)
            .output(Output::Lines(Arc::new(|line| println!("pgbouncer: {line}"))))
            .spawn()
            .context("start pgbouncer; on Debian: apt-get install pgbouncer")?;
        Ok(Self { port, _process: process, _folder: folder })
    }

    /// URL of the database for this role, through PgBouncer.
    pub fn url(&self, role: &str, database: &TestDatabase) -> String {
        format!("postgres://{role}:unused@127.0.0.1:{}/{}", self.port, database.name())
    }
}

/// Creates the roles and schemas of the services, with `deploy/postgres/init.sql`, as the user of this URL.
///
/// # Errors
/// If psql is missing or reports an error.
pub fn create_roles(owner_url: &str) -> anyhow::Result<()> {
    let output = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--variable=ON_ERROR_STOP=1", "--file"])
        .arg(place::workspace().join("deploy/postgres/init.sql"))
        .arg(owner_url)
        .envs([("CHAT_PASSWORD", "chat's"), ("NOTIFY_PASSWORD", "$notify")])
        .output()
        .context("run psql")?;
    anyhow::ensure!(output.status.success(), "init.sql: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
