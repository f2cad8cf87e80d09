//! Which pod or container a person means.

use husk_proto::cri;

use super::short;
use crate::error::{Error, Result};

/// The most that an error names.
const NAMED: usize = 8;

/// What a pod or container is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// "pod" or "container".
    pub kind: &'static str,
    /// By which it may be called, the most exact one last.
    names: Vec<String>,
    /// What it is one of the attempts at.
    family: String,
    created_at: i64,
}

impl Named {
    /// A pod: NAME, NAMESPACE/NAME.
    pub fn pod(pod: &cri::PodSandbox) -> Named {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let whole = format!("{}/{}", metadata.namespace, metadata.name);
        Named {
            id: pod.id.clone(),
            kind: "pod",
            family: format!("{whole}/{}", metadata.uid),
            names: vec![metadata.name, whole],
            created_at: pod.created_at,
        }
    }

    /// A container: NAME, POD/NAME, NAMESPACE/POD/NAME.
    pub fn container(pod: &cri::PodSandbox, container: &cri::Container) -> Named {
        let pod = Named::pod(pod);
        let name = container.metadata.clone().unwrap_or_default().name;
        let of_pod = pod.names.iter().map(|pod| format!("{pod}/{name}"));
        Named {
            id: container.id.clone(),
            kind: "container",
            names: std::iter::once(name.clone()).chain(of_pod).collect(),
            family: format!("{}/{name}", pod.family),
            created_at: container.created_at,
        }
    }

    /// Something of which just the id is known.
    pub fn id(kind: &'static str, id: String) -> Named {
        Named { family: id.clone(), id, kind, names: Vec::new(), created_at: 0 }
    }

    /// Without its shortest name, by which something else is meant.
    pub fn without_plain_name(mut self) -> Named {
        self.names.drain(..1.min(self.names.len()));
        self
    }
}

/// The one that has this id, or is called so, or is the only one whose id begins so. Of several attempts at one thing
/// the youngest is meant.
///
/// # Errors
/// When several are meant, with what tells them apart.
pub fn find<'a>(wanted: &str, among: &'a [Named]) -> Result<Option<&'a Named>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    if let Some(exact) = among.iter().find(|named| named.id == wanted) {
        return Ok(Some(exact));
    }
    let called: Vec<_> = among.iter().filter(|named| named.names.iter().any(|name| name == wanted)).collect();
    if called.iter().all(|named| named.family == called[0].family) && !called.is_empty() {
        return Ok(called.into_iter().max_by_key(|named| named.created_at));
    }
    let begins: Vec<_> = among.iter().filter(|named| named.id.starts_with(wanted)).collect();
    match (called.is_empty(), begins.as_slice()) {
        (true, []) => Ok(None),
        (true, [only]) => Ok(Some(only)),
        (true, several) => Err(ambiguous(wanted, several)),
        (false, _) => Err(ambiguous(wanted, &called)),
    }
}

/// As [`find`], for who has nothing else to look at.
///
/// # Errors
/// When it is none of them, or several are meant.
pub fn find_known<'a>(kind: &str, wanted: &str, among: &'a [Named]) -> Result<&'a Named> {
    find(wanted, among)?.ok_or_else(|| unknown(kind, wanted))
}

/// Nothing is called so.
pub fn unknown(kind: &str, wanted: &str) -> Error {
    Error::Missing(format!(
        "no {kind} is called {wanted:?} or has an id that begins so; `husk ps --all` lists all there are"
    ))
}

fn ambiguous(wanted: &str, several: &[&Named]) -> Error {
    let shown = |named: &&Named| {
        let name = named.names.last().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{}{name} ({})", named.kind, short(&named.id))
    };
    let mut shown: Vec<String> = several.iter().take(NAMED).map(shown).collect();
    if several.len() > NAMED {
        shown.push(format!("{} others", several.len() - NAMED));
    }
    Error::Invalid(format!(
        "{wanted:?} may mean {}; say which by more of its id, or by its whole name",
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str, namespace: &str, name: &str, created_at: i64) -> cri::PodSandbox {
        let metadata = cri::PodSandboxMetadata {
            name: name.into(),
            namespace: namespace.into(),
            uid: format!("uid-{namespace}"),
            ..Default::default()
        };
        cri::PodSandbox { id: id.into(), metadata: Some(metadata), created_at, ..Default::default() }
    }

    fn container(id: &str, name: &str, created_at: i64) -> cri::Container {
        let metadata = Some(cri::ContainerMetadata { name: name.into(), ..Default::default() });
        cri::Container { id: id.into(), metadata, created_at, ..Default::default() }
    }

    fn found<'a>(wanted: &str, among: &'a [Named]) -> Option<&'a str> {
        find(wanted, among).unwrap().map(|named| named.id.as_str())
    }

    #[test]
    fn ids_their_beginnings_and_names_are_found() {
        let pods = [pod("abc1", "one", "web", 1), pod("abd2", "two", "db", 2), pod("ab", "two", "abd2x", 3)];
        let pods: Vec<Named> = pods.iter().map(Named::pod).collect();
        for (wanted, id) in
            [("ab", "ab"), ("abc", "abc1"), ("web", "abc1"), ("two/db", "abd2"), ("abd2x", "ab")]
        {
            assert_eq!(found(wanted, &pods), Some(id), "{wanted}");
        }
        for unknown in ["", "we", "one/db", "x", "../web"] {
            assert_eq!(found(unknown, &pods), None, "{unknown}");
        }
        let error = find("a", &pods).unwrap_err().to_string();
        assert!(error.contains("one/web (abc1)") && error.contains("two/db (abd2)"), "{error}");
    }

    #[test]
    fn the_youngest_attempt_is_meant_and_other_pods_are_told_apart() {
        let [first, second] = [pod("1", "one", "web", 1), pod("2", "one", "web", 2)];
        let other = pod("3", "two", "web", 3);
        let pods = [&first, &second, &other].map(Named::pod);
        assert_eq!(found("web", &pods[..2]), Some("2"));
        assert_eq!((found("one/web", &pods), found("two/web", &pods)), (Some("2"), Some("3")));
        let error = find("web", &pods).unwrap_err().to_string();
        assert!(error.contains("pod one/web (1)") && error.contains("pod two/web (3)"), "{error}");

        let containers = [
            Named::container(&first, &container("c1", "nginx", 1)),
            Named::container(&first, &container("c2", "nginx", 2)),
            Named::container(&other, &container("c3", "nginx", 3)),
        ];
        assert_eq!((found("one/web/nginx", &containers), found("c1", &containers)), (Some("c2"), Some("c1")));
        assert!(find("nginx", &containers).is_err() && find("web/nginx", &containers).is_err());
        let without = containers.map(Named::without_plain_name);
        assert_eq!((found("nginx", &without), found("two/web/nginx", &without)), (None, Some("c3")));
    }
}
