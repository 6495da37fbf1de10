//! Runs the Django snippets in a small project, with the package `clients/django`. Its other files are in `django/`.

use crate::{
    notifications, payments,
    snippets::snippet,
    tools::{self, Tool, run},
};
use e2e::{BACKEND_KEY, Kind, SECRET, Stack, eventually};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use testkit::TestDatabase;

/// Files of the project in `docs/publishing.md`. The first one is the end of its settings.
pub const SNIPPETS: [&str; 2] = ["project/realtime_settings.py", "shop/views.py"];
/// Other files of the project.
const REST: [(&str, &str); 4] = [
    ("manage.py", include_str!("django/manage.py")),
    ("project/urls.py", include_str!("django/urls.py")),
    ("shop/models.py", include_str!("django/models.py")),
    ("shop/management/commands/call.py", include_str!("django/call.py")),
];
/// End of a site's settings. By default, the package gives up after a second, which a busy machine may need.
pub const PATIENCE: &str = "\nVYZIO[\"TIMEOUT\"] = 30\n";

/// Environment variables of the site.
pub fn environment(stack: &Stack) -> [(&'static str, String); 2] {
    [("REALTIME_URL", format!("http://{}", stack.host(0))), ("REALTIME_KEY", BACKEND_KEY.to_owned())]
}

/// Writes the files of a project, each folder of which is a package, and links the package `clients/django` into it.
pub fn write_project(folder: &Path, files: &[(&str, String)]) {
    for (name, text) in files {
        let file = folder.join(name);
        let above = file.parent().unwrap();
        fs::create_dir_all(above).unwrap();
        for package in above.ancestors().take_while(|above| *above != folder) {
            fs::write(package.join("__init__.py"), "").unwrap();
        }
        fs::write(file, text).unwrap();
    }
    let package = "vyzio_realtime_django";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/django/src").join(package);
    symlink(source, folder.join(package)).unwrap();
}

struct Project {
    python: PathBuf,
    folder: tempfile::TempDir,
    database: TestDatabase,
}

impl Project {
    async fn create(python: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = include_str!("django/settings.py").to_owned() + &snippet(SNIPPETS[0]) + PATIENCE;
        let mut files = vec![("project/settings.py", settings), (SNIPPETS[1], snippet(SNIPPETS[1]))];
        files.extend(REST.map(|(name, text)| (name, text.to_owned())));
        write_project(folder.path(), &files);
        let database = TestDatabase::create().await.unwrap();
        Self { python, folder, database }
    }

    async fn manage(&self, stack: &Stack, arguments: &[&str]) -> String {
        let tool = Tool::new(&self.python, self.folder.path()).arg("manage.py");
        let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(*argument));
        let database = self.database.url();
        let site = environment(stack);
        let env = site.iter().map(|(name, value)| (*name, value.as_str()));
        let env: Vec<_> = env.chain([("DATABASE_URL", database.as_str()), ("SECRET_KEY", SECRET)]).collect();
        run(tool, stack, &env).await
    }

    /// Runs the relay until it has published this number of events.
    async fn relay(&self, stack: &Stack, count: usize) {
        let published = format!("{count} published, 0 errors");
        // An event that could not be published has a pause of some seconds.
        eventually("the relay", || async {
            (self.manage(stack, &["realtime_relay"]).await.trim() == published).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_django_snippets_of_publishing_lose_no_event() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the Django snippets of docs/publishing.md", &reason),
    };
    let mut stack = Stack::start().await;
    let project = Project::create(python).await;
    project.manage(&stack, &["migrate", "--run-syncdb"]).await;

    // Calls several views in one process. The view that fails after its insert publishes nothing.
    let output = project.manage(&stack, &["call", "/pay/456/10/", "/pay/456/11/", "/broken/456/12/"]).await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["200", "200", "500", "0 in the outbox"]);
    assert_eq!(payments(&notifications(&stack, 456, 2).await), [1, 2]);

    // Without the gateway, the view succeeds and the outbox keeps its event.
    stack.kill(Kind::Gateway, 0).await;
    let output = project.manage(&stack, &["call", "/pay/456/20/"]).await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["200", "1 in the outbox"]);
    stack.restart(Kind::Gateway, 0);
    stack.ready().await;
    project.relay(&stack, 1).await;
    assert_eq!(payments(&notifications(&stack, 456, 3).await), [1, 2, 4]);

    // The same without NATS.
    stack.nats.kill().await;
    let output = project.manage(&stack, &["call", "/pay/456/21/"]).await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["200", "1 in the outbox"]);
    stack.nats.restart().await.unwrap();
    stack.ready().await;
    project.relay(&stack, 1).await;
    assert_eq!(payments(&notifications(&stack, 456, 4).await), [1, 2, 4, 5]);

    // Forked processes open connections of their own.
    let output = project.manage(&stack, &["call", "--fork", "/pay/457/30/", "/pay/457/31/"]).await;
    assert_eq!(output.lines().filter(|line| *line == "200").count(), 2, "{output}");
    notifications(&stack, 457, 2).await;
    project.manage(&stack, &["realtime_check"]).await;
}
