//! Tokens of djangorestframework-simplejwt.

use crate::tools::{self, Tool, run};
use e2e::{Options, Socket, Stack};
use serde_json::Value;

/// Prints one token a line: its kind, the type of its user id (`str` or `int`), and the token.
const MAKE: &str = r#"
import sys
from datetime import timedelta
from django.conf import settings

algorithm, key = sys.argv[1], open(sys.argv[2]).read()
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    SECRET_KEY=key,
    SIMPLE_JWT={"ALGORITHM": algorithm, "SIGNING_KEY": key, "ACCESS_TOKEN_LIFETIME": timedelta(minutes=5)},
)
import django
django.setup()
from django.contrib.auth.models import User
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

token = AccessToken.for_user(User(pk=456, username="john_doe"))
print("access", type(token["user_id"]).__name__, token)
for user_id in 456, "456":
    token["user_id"] = user_id
    print("access", type(user_id).__name__, token)
print("refresh", "str", RefreshToken.for_user(User(pk=456)))
token.set_exp(lifetime=timedelta(minutes=-5))
print("expired", "str", token)
"#;

#[tokio::test]
async fn tokens_of_simplejwt_are_accepted_without_configuration() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("tokens made by djangorestframework-simplejwt", &reason),
    };
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/testdata");
    let read = |name: &str| std::fs::read_to_string(format!("{keys}/{name}")).unwrap();
    let secret = || "the SECRET_KEY of a Django project".to_owned();
    for (algorithm, key, variable, value) in [
        ("HS256", secret(), "JWT_SECRET", secret()),
        ("RS256", read("rsa.pem"), "JWT_PUBLIC_KEY", read("rsa.pub.pem")),
        ("ES256", read("p256.pem"), "JWT_PUBLIC_KEY", read("p256.pub.pem")),
    ] {
        let env = vec![("JWT_SECRET", String::new()), (variable, value)];
        let stack = Stack::with(Options { env, counts: [1, 1, 1, 0], ..Options::default() }).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("make.py"), MAKE).unwrap();
        std::fs::write(folder.path().join("key"), key).unwrap();
        let tool = Tool::new(&python, folder.path()).arg("make.py").arg(algorithm).arg("key");
        let output = run(tool, &stack, &[]).await;
        let mut kinds = Vec::new();
        for line in output.lines() {
            let mut words = line.split(' ');
            let (kind, id, token) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            kinds.push(format!("{kind} {id}"));
            let call = stack.http().get(format!("http://{}/api/unread", stack.host(0))).bearer_auth(token);
            let status = call.send().await.unwrap().status().as_u16();
            let url = format!("ws://{}/ws/notifications/?token={token}", stack.host(0));
            let mut socket = Socket::open(&url).await;
            if kind == "access" {
                assert_eq!(status, 200, "{algorithm} {line}");
                socket.send(serde_json::json!({"type": "auth", "token": token})).await;
                let frame: Value = socket.next().await;
                assert_eq!(frame["type"], "auth", "{algorithm} {line}: {frame}");
            } else {
                assert_eq!((status, socket.closed().await), (401, Some(4401)), "{algorithm} {line}");
            }
        }
        kinds.dedup();
        assert!(
            kinds.contains(&"access int".to_owned()) && kinds.contains(&"access str".to_owned()),
            "{output}"
        );
        assert_eq!(output.lines().count(), 5);
    }
}
