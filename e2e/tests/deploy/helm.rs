//! The Helm chart: rendered with three sets of values, and checked against schemas.

use crate::tools::{go, go_module, must, python, root};
use axum::{Json, Router, http::StatusCode, routing::get};
use serde_json::{Value, json};
use std::{fs, process::Command};
use testkit::free_port;

const CHART: &str = "deploy/helm/vyzio";
const MINIMAL: &str = "deploy/helm/vyzio/ci/minimal.yaml";
const PRODUCTION: &str = "deploy/helm/vyzio/ci/production.yaml";
const ALL: &str = "deploy/helm/vyzio/ci/all.yaml";

/// Services, with their admin port and their key in the values.
const SERVICES: [(&str, u16, &str); 4] = [
    ("gateway", 9000, "gateway"),
    ("chat-service", 9001, "chatService"),
    ("notify-service", 9002, "notifyService"),
    ("typing-service", 9003, "typingService"),
];

/// Schemas of resources that are not part of Kubernetes: the kind, and the module and file of its definition.
const DEFINITIONS: [(&str, &str, &str); 3] = [
    (
        "HTTPRoute",
        "sigs.k8s.io/gateway-api@v1.6.3",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    (
        "PodMonitor",
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    (
        "PrometheusRule",
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
];

fn helm() -> Option<Command> {
    go("helm.sh/helm/v3/cmd/helm@v3.22.0")
}

/// `helm template` of the release `vyzio`: the resources, or the error message.
fn template(mut helm: Command, arguments: &[&str]) -> Result<Vec<Value>, String> {
    // A helm from `go install` assumes an old version of Kubernetes.
    helm.args(["template", "vyzio", CHART, "--namespace", "vyzio", "--kube-version", "1.34"]).args(arguments);
    let output = helm.env("KUBECONFIG", "/dev/null").current_dir(root()).output().unwrap();
    if output.status.success() {
        Ok(serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

fn rendered(values: &str) -> Option<Vec<Value>> {
    Some(template(helm()?, &["--values", values]).unwrap())
}

fn read(path: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

fn of_kind<'a>(kind: &'a str, resources: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    resources.iter().filter(move |resource| resource["kind"] == kind)
}

fn named<'a>(kind: &'a str, name: &str, resources: &'a [Value]) -> &'a Value {
    let mut found = of_kind(kind, resources).filter(|resource| resource["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn container<'a>(service: &str, resources: &'a [Value]) -> &'a Value {
    let deployment = named("Deployment", &format!("vyzio-{service}"), resources);
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

fn env<'a>(service: &str, name: &str, resources: &'a [Value]) -> &'a Value {
    let mut variables = container(service, resources)["env"].as_array().unwrap().iter();
    variables.find(|variable| variable["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn resources_match_their_schemas() {
    for values in [MINIMAL, PRODUCTION, ALL] {
        let Some(mut lint) = helm() else { return };
        must(lint.args(["lint", "--strict", CHART, "--values", values]));
        let Some(resources) = rendered(values) else { return };
        let is_custom = |resource: &&Value| DEFINITIONS.iter().any(|(kind, ..)| resource["kind"] == *kind);
        let (custom, of_kubernetes): (Vec<&Value>, Vec<&Value>) = resources.iter().partition(is_custom);
        let custom_kinds = if values == MINIMAL { 0 } else { 2 } + usize::from(values == ALL);
        assert_eq!(custom.len(), custom_kinds, "{values}");
        for resource in custom {
            is_valid(resource);
        }
        let Some(mut validate) = python("kubernetes-validate") else { continue };
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        // JSON is YAML.
        let documents: Vec<String> = of_kubernetes.iter().map(ToString::to_string).collect();
        fs::write(file.path(), documents.join("\n---\n")).unwrap();
        must(validate.arg("--strict").arg(file.path()));
    }
}

/// Checks a resource against the definition of its kind.
fn is_valid(resource: &Value) {
    let (_, module, file) = DEFINITIONS.into_iter().find(|(kind, ..)| resource["kind"] == *kind).unwrap();
    let Some(folder) = go_module(module) else { return };
    let definition: Value = serde_saphyr::from_str(&fs::read_to_string(folder.join(file)).unwrap()).unwrap();
    let api = resource["apiVersion"].as_str().unwrap();
    let mut versions = definition["spec"]["versions"].as_array().unwrap().iter();
    let version = versions.find(|version| api.ends_with(&format!("/{}", version["name"].as_str().unwrap())));
    let mut schema = version.unwrap()["schema"]["openAPIV3Schema"].clone();
    make_strict(&mut schema);
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(resource).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, [] as [&str; 0], "{resource:#}");
}

/// Makes unknown fields errors, as `kubectl --validate=strict` does.
fn make_strict(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let is_open = fields.contains_key("additionalProperties")
                || fields.contains_key("x-kubernetes-preserve-unknown-fields");
            // A property may have the name `properties`; then no `type` is beside it.
            if fields.get("type") == Some(&json!("object")) && fields.contains_key("properties") && !is_open {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            // Patterns in Go's syntax may have flags, those of JSON Schema may not.
            fields.retain(|name, value| {
                name != "pattern" || !value.as_str().is_some_and(|pattern| pattern.contains("(?i)"))
            });
            fields.values_mut().for_each(make_strict);
        }
        Value::Array(items) => items.iter_mut().for_each(make_strict),
        _ => {}
    }
}

#[test]
fn pods_have_probes_ports_and_no_privileges() {
    for values in [MINIMAL, PRODUCTION, ALL] {
        let Some(resources) = rendered(values) else { return };
        assert_eq!(of_kind("Deployment", &resources).count(), SERVICES.len());
        for (service, admin, _) in SERVICES {
            let name = format!("vyzio-{service}");
            let deployment = &named("Deployment", &name, &resources)["spec"];
            let pod = &deployment["template"]["spec"];
            let container = container(service, &resources);
            let probe = |probe: &str| &container[probe]["httpGet"];
            assert_eq!(probe("livenessProbe"), &json!({"path": "/healthz", "port": "admin"}));
            let ready = match service {
                "gateway" => json!({"path": "/healthz", "port": "http"}),
                _ => json!({"path": "/readyz", "port": "admin"}),
            };
            assert_eq!(probe("readinessProbe"), &ready);
            let mut ports = vec![json!({"name": "admin", "containerPort": admin})];
            if service == "gateway" {
                ports.insert(0, json!({"name": "http", "containerPort": 8000}));
            }
            assert_eq!(container["ports"], json!(ports));
            assert_eq!(env(service, "ADMIN_ADDR", &resources)["value"], format!("0.0.0.0:{admin}"));
            let user = json!({
                "runAsNonRoot": true,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            });
            assert_eq!(pod["securityContext"], user);
            let privileges = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], privileges);
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["terminationGracePeriodSeconds"], 40);
            let spread = pod["topologySpreadConstraints"].as_array().unwrap();
            let keys: Vec<&Value> = spread.iter().map(|constraint| &constraint["topologyKey"]).collect();
            assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
            let labels = deployment["template"]["metadata"]["labels"].as_object().unwrap();
            let selector = &deployment["selector"];
            for (label, value) in selector["matchLabels"].as_object().unwrap() {
                assert_eq!(&labels[label], value);
            }
            assert_eq!(labels["app.kubernetes.io/name"], service);
            let budget = &named("PodDisruptionBudget", &name, &resources)["spec"];
            assert_eq!((&budget["selector"], &budget["maxUnavailable"]), (selector, &json!(1)));
        }
    }
}

/// Secrets exist beforehand: the chart names them, and neither creates one nor copies a value of one.
#[test]
fn secrets_are_only_referenced() {
    for (values, secrets) in [
        (MINIMAL, ["gateway", "chat-service", "notify-service", "typing-service"]),
        (ALL, ["my-gateway", "my-chat", "my-notify", "my-typing"]),
    ] {
        let Some(resources) = rendered(values) else { return };
        assert_eq!(of_kind("Secret", &resources).count(), 0);
        for ((service, ..), secret) in SERVICES.into_iter().zip(secrets) {
            let container = container(service, &resources);
            assert_eq!(container["envFrom"], json!([{"secretRef": {"name": secret}}]));
            for variable in container["env"].as_array().unwrap() {
                let name = variable["name"].as_str().unwrap();
                assert!(!["NATS_URL", "DATABASE_URL", "JWT_SECRET"].contains(&name), "{service}: {name}");
            }
        }
    }
}

/// Each has a volume below `/etc/vyzio`, and a variable with its path.
#[test]
fn kinds_texts_and_endpoints_of_webhooks_are_files_of_their_services() {
    let Some(resources) = rendered(ALL) else { return };
    let values = read(ALL);
    for (service, variable, name, path) in [
        ("chat-service", "KINDS_DIR", "kinds", "/etc/vyzio/kinds"),
        ("notify-service", "CATALOGUE_DIR", "catalogue", "/etc/vyzio/catalogue"),
        ("notify-service", "WEBHOOKS", "webhooks", "/etc/vyzio/webhooks/webhooks.toml"),
    ] {
        assert_eq!(env(service, variable, &resources)["value"], path);
        let mount = json!({"name": name, "mountPath": format!("/etc/vyzio/{name}"), "readOnly": true});
        assert!(
            container(service, &resources)["volumeMounts"].as_array().unwrap().contains(&mount),
            "{name}"
        );
        let volume = if name == "webhooks" {
            json!({"name": name, "secret": {"secretName": values["webhooksSecret"]}})
        } else {
            let map = format!("vyzio-{name}");
            assert_eq!(named("ConfigMap", &map, &resources)["data"], values[name]);
            json!({"name": name, "configMap": {"name": map}})
        };
        let pod = &named("Deployment", &format!("vyzio-{service}"), &resources)["spec"]["template"]["spec"];
        assert!(pod["volumes"].as_array().unwrap().contains(&volume), "{name}");
    }
    for (service, count) in
        [("gateway", 0), ("chat-service", 1), ("notify-service", 2), ("typing-service", 0)]
    {
        let mounts = container(service, &resources)["volumeMounts"].as_array().map_or(0, Vec::len);
        assert_eq!(mounts, count, "{service}");
    }
    // Without files, there are no volumes, and the built-in kinds and texts are used.
    let resources = rendered(MINIMAL).unwrap();
    assert_eq!(of_kind("ConfigMap", &resources).count(), 0);
    for (service, ..) in SERVICES {
        let pod = &named("Deployment", &format!("vyzio-{service}"), &resources)["spec"]["template"]["spec"];
        assert_eq!(
            (&pod["volumes"], &container(service, &resources)["volumeMounts"]),
            (&Value::Null, &Value::Null)
        );
        for variable in ["KINDS_DIR", "CATALOGUE_DIR", "WEBHOOKS"] {
            assert_eq!(env(service, variable, &resources), &Value::Null, "{service}");
        }
    }
}

#[test]
fn a_changed_kind_changes_the_pods_of_chat_service_only() {
    let rendered = |text: &str| {
        let kind = format!("kinds.review\\.json={text}");
        Some(template(helm()?, &["--values", MINIMAL, "--set-string", &kind]).unwrap())
    };
    let Some(first) = rendered("1") else { return };
    let second = rendered("2").unwrap();
    for (service, ..) in SERVICES {
        let name = format!("vyzio-{service}");
        let pods =
            [&first, &second].map(|resources| &named("Deployment", &name, resources)["spec"]["template"]);
        assert_eq!(pods[0] != pods[1], service == "chat-service", "{service}");
    }
}

#[test]
fn the_number_of_threads_is_the_cpu_limit() {
    let Some(resources) = rendered(MINIMAL) else { return };
    let limit = json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}});
    let threads = |service| env(service, "TOKIO_WORKER_THREADS", &resources);
    assert_eq!(threads("gateway")["valueFrom"], limit);
    // Without a limit, the value would be the number of processors of the node.
    for service in ["chat-service", "notify-service", "typing-service"] {
        assert_eq!(threads(service), &Value::Null);
    }
    let Some(resources) = rendered(ALL) else { return };
    assert_eq!(env("chat-service", "TOKIO_WORKER_THREADS", &resources)["valueFrom"], limit);
    assert_eq!(env("typing-service", "TOKIO_WORKER_THREADS", &resources)["value"], "1");
    assert_eq!(env("notify-service", "RUST_LOG", &resources)["value"], "warn");
}

#[test]
fn the_prometheus_rule_has_the_alerts_of_the_repository() {
    let Some(resources) = rendered(PRODUCTION) else { return };
    let alerts = read("deploy/observability/alerts.yml");
    assert_eq!(named("PrometheusRule", "vyzio", &resources)["spec"], alerts);
    // The alerts name jobs; the PodMonitor takes the job from this label of the pods.
    let monitor = &named("PodMonitor", "vyzio", &resources)["spec"];
    assert_eq!(monitor["jobLabel"], "app.kubernetes.io/name");
    for (service, ..) in SERVICES {
        let pod = &named("Deployment", &format!("vyzio-{service}"), &resources)["spec"]["template"];
        for (label, value) in monitor["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(&pod["metadata"]["labels"][label], value);
        }
    }
}

#[test]
fn gateways_are_scaled_by_sockets_only_with_an_adapter() {
    let metrics = |values| {
        let resources = rendered(values)?;
        let scaling = &named("HorizontalPodAutoscaler", "vyzio-gateway", &resources)["spec"];
        assert_eq!(named("Deployment", "vyzio-gateway", &resources)["spec"]["replicas"], Value::Null);
        Some(scaling["metrics"].as_array().unwrap().iter().map(|metric| metric["type"].clone()).collect())
    };
    let Some(minimal) = metrics(MINIMAL) else { return };
    let minimal: Vec<Value> = minimal;
    assert_eq!(minimal, ["Resource"]);
    assert_eq!(metrics(PRODUCTION).unwrap(), ["Resource", "Pods"]);
}

#[test]
fn network_policies_allow_the_key_set() {
    let port = |url: &str| {
        let url = format!("gateway.jwksUrl={url}");
        let resources = template(helm()?, &["--values", MINIMAL, "--set", &url]).unwrap();
        let egress = &named("NetworkPolicy", "vyzio-jwks", &resources)["spec"]["egress"][0];
        assert_eq!(egress["to"][0], json!({"ipBlock": {"cidr": "0.0.0.0/0"}}));
        Some(egress["ports"][0]["port"].clone())
    };
    let Some(default) = port("https://accounts.example.com/keys") else { return };
    assert_eq!(default, 443);
    assert_eq!(port("http://accounts.example.com/keys").unwrap(), 80);
    assert_eq!(port("https://accounts.example.com:8443/keys").unwrap(), 8443);
    let resources = rendered(ALL).unwrap();
    let egress = &named("NetworkPolicy", "vyzio-jwks", &resources)["spec"]["egress"][0];
    assert_eq!(egress["ports"], json!([{"port": 8000}]));
    // Without a URL, gateways connect to nothing but DNS, NATS and the collector.
    let resources = rendered(MINIMAL).unwrap();
    let policies = of_kind("NetworkPolicy", &resources);
    assert!(policies.into_iter().all(|policy| policy["metadata"]["name"] != "vyzio-jwks"));
}

#[test]
fn backends_are_not_reached_from_the_public_and_webhooks_only_if_enabled() {
    let Some(resources) = rendered(ALL) else { return };
    for (kind, paths) in [("HTTPRoute", "/spec/rules/0/matches"), ("Ingress", "/spec/rules/0/http/paths")] {
        let routes: Vec<&Value> = of_kind(kind, &resources).collect();
        assert!(!routes.is_empty());
        for route in routes {
            let paths = route.pointer(paths).unwrap().to_string();
            assert!(
                paths.contains("/ws") && !paths.contains("/backend") && !paths.contains("\"/\""),
                "{paths}"
            );
        }
    }
    let egress = &named("NetworkPolicy", "vyzio-webhooks", &resources)["spec"]["egress"][0];
    assert_eq!(egress["ports"], json!([{"port": 8443}]));
    let resources = rendered(MINIMAL).unwrap();
    let policies = of_kind("NetworkPolicy", &resources);
    assert!(policies.into_iter().all(|policy| policy["metadata"]["name"] != "vyzio-webhooks"));
}

/// `all.yaml` is complete: a new option gets a value there, and is checked with it.
#[test]
fn every_option_is_checked_with_another_value() {
    fn same(path: &str, default: &Value, other: &Value, found: &mut Vec<String>) {
        match default {
            Value::Object(fields) if !fields.is_empty() => {
                for (field, default) in fields {
                    same(&format!("{path}.{field}"), default, &other[field], found);
                }
            }
            _ if default == other || other.is_null() => found.push(path.to_owned()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    same("", &read("deploy/helm/vyzio/values.yaml"), &read(ALL), &mut found);
    // `all.yaml` replaces the annotations by those of another controller, and needs the policies.
    found.retain(|path| !path.starts_with(".ingress.annotations.") && path != ".networkPolicy.enabled");
    assert_eq!(found, [] as [&str; 0]);
    let off = ["--values", ALL, "--set", "networkPolicy.enabled=false"];
    let Some(helm) = helm() else { return };
    assert_eq!(of_kind("NetworkPolicy", &template(helm, &off).unwrap()).count(), 0);
}

#[test]
fn bad_values_are_refused_with_a_remedy() {
    let images = "image.repository=registry.example.com/vyzio";
    let both = &format!("{images},image.tag=1.0.0");
    for (values, message) in [
        ("", "image.repository is missing: set it to"),
        (images, "image.tag is missing: set it to"),
        (&format!("{both},gateway.env.JWT_SECRET=x"), "put it into the Secret \"gateway\""),
        (&format!("{both},chatService.env.DATABASE_URL=x"), "put it into the Secret \"chat-service\""),
        (&format!("{both},env.ADMIN_ADDR=x"), "has ADMIN_ADDR: remove it"),
        (&format!("{both},gateway.env.JWT_JWKS_URL=https://a.b"), "set gateway.jwksUrl instead"),
        (&format!("{both},gateway.jwksUrl=a.b/keys"), "such as https://accounts.example.com/"),
        (&format!("{both},gateway.autoscaling.minReplicas=30"), "lower it, or raise maxReplicas"),
        (&format!("{both},httpRoute.enabled=true"), "httpRoute.parentRefs is empty: name the Gateway"),
        (&format!("{both},ingress.enabled=true"), "ingress.host is missing: set it to"),
        (&format!("{both},ingress.enabled=true,ingress.host=a.b"), "ingress.tlsSecret is missing: set it to"),
        (&format!("{both},monitoring.prometheusRule=true"), "needs monitoring.podMonitor: set it too"),
        // By the schema.
        (&format!("{both},gateway.replicas=3"), "additional properties 'replicas' not allowed"),
        (&format!("{both},gateway.env.SEND_RATE=3"), "got number, want string"),
        (&format!("{both},chatService.replicas=0"), "minimum"),
        (&format!("{both},kinds.Review\\.json=x"), "does not match pattern"),
        (&format!("{both},kinds.review\\.json=3"), "got number, want string"),
        (&format!("{both},catalogue.fr\\.txt=x"), "does not match pattern"),
        // A policy without peers would allow all.
        (&format!("{both},networkPolicy.nats=null"), "missing property 'nats'"),
    ] {
        let Some(helm) = helm() else { return };
        let error = template(helm, &["--set", values]).unwrap_err();
        assert!(error.contains(message), "{values}: {error}");
    }
}

/// The part of the API of Kubernetes that helm reads Secrets with; there is one.
async fn api_server(name: &str, data: Value) -> String {
    let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"});
    let resources = json!({
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "secrets", "kind": "Secret", "namespaced": true, "verbs": ["get"]}],
    });
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "vyzio"},
        "data": data,
    });
    let missing =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    let router = Router::new()
        .route("/version", get(async || Json(version)))
        .route("/api", get(async || Json(json!({"kind": "APIVersions", "versions": ["v1"]}))))
        .route("/apis", get(async || Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))))
        .route("/api/v1", get(async || Json(resources)))
        .route(&format!("/api/v1/namespaces/vyzio/secrets/{name}"), get(async || Json(secret)))
        .fallback(async || (StatusCode::NOT_FOUND, Json(missing)));
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// The chart, with what helm reads from an API server with one Secret.
async fn rendered_with(secret: &str, data: Value, arguments: &[&str]) -> Option<Result<Vec<Value>, String>> {
    let server = api_server(secret, data).await;
    let helm = helm()?;
    let all = ["--values", MINIMAL, "--dry-run=server", "--kube-apiserver", &server];
    Some(template(helm, &[&all, arguments].concat()))
}

fn annotation<'a>(service: &str, name: &str, resources: &'a [Value]) -> &'a Value {
    let deployment = named("Deployment", &format!("vyzio-{service}"), resources);
    &deployment["spec"]["template"]["metadata"]["annotations"][name]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_changes_the_pods() {
    let rendered = async |data: Value| rendered_with("gateway", data, &[]).await;
    let hash = |service: &str, resources: &[Value]| annotation(service, "checksum/secret", resources).clone();
    let Some(first) = rendered(json!({"NATS_URL": "YQ==", "JWT_SECRET": "YQ=="})).await else { return };
    let first = first.unwrap();
    let second = rendered(json!({"NATS_URL": "YQ==", "JWT_SECRET": "Yg=="})).await.unwrap().unwrap();
    assert_eq!(hash("gateway", &first).as_str().unwrap().len(), 64);
    assert_ne!(hash("gateway", &first), hash("gateway", &second));
    // A Secret that can't be read has none.
    assert_eq!(hash("chat-service", &first), Value::Null);
    for (gateway, message) in [
        (json!({"JWT_SECRET": "YQ=="}), "has no NATS_URL: add it"),
        (json!({"NATS_URL": "YQ=="}), "add JWT_SECRET or JWT_PUBLIC_KEY, or set gateway.jwksUrl"),
        (json!({"NATS_URL": "YQ==", "JWT_JWKS_URL": "YQ=="}), "set gateway.jwksUrl instead"),
    ] {
        let error = rendered(gateway).await.unwrap().unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_endpoints_of_webhooks_change_the_pods_of_notify_service() {
    let rendered =
        async |data: Value| rendered_with("webhooks", data, &["--set", "webhooksSecret=webhooks"]).await;
    let hash =
        |service: &str, resources: &[Value]| annotation(service, "checksum/webhooks", resources).clone();
    let Some(first) = rendered(json!({"webhooks.toml": "YQ=="})).await else { return };
    let first = first.unwrap();
    let second = rendered(json!({"webhooks.toml": "Yg=="})).await.unwrap().unwrap();
    assert_eq!(hash("notify-service", &first).as_str().unwrap().len(), 64);
    assert_ne!(hash("notify-service", &first), hash("notify-service", &second));
    assert_eq!(hash("chat-service", &first), Value::Null);
    let error = rendered(json!({"endpoints": "YQ=="})).await.unwrap().unwrap_err();
    assert!(error.contains("has no webhooks.toml: add it"), "{error}");
}
