//! Where a pod's cgroup is: below the parent that the request names.

use std::fmt;

use crate::error::{Error, Result};

/// The longest parent, in bytes; kubelet's are below 200.
const MAX_PARENT: usize = 1024;
/// The longest name of one cgroup, in bytes (NAME_MAX).
const MAX_NAME: usize = 255;
/// systemd's units that are cgroups of cgroups (systemd.slice(5)).
const SLICE: &str = ".slice";

/// A cgroup by its names, from the root of a hierarchy on. Each is one plain name: not empty, no "..".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath(Vec<String>);

impl CgroupPath {
    /// The cgroup of the pod `id` below the parent of its request, or below `default` when it names none. None when
    /// that is empty as well.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the parent.
    pub fn of_pod(requested: &str, default: &str, id: &str) -> Result<Option<CgroupPath>> {
        let parent = if requested.is_empty() { default } else { requested };
        if parent.is_empty() {
            return Ok(None);
        }
        if parent.len() > MAX_PARENT {
            return Err(wrong(parent, "it is longer than 1024 bytes"));
        }
        let mut path = CgroupPath::parse(parent)?;
        path.0.push(name(id));
        Ok(Some(path))
    }

    /// A path in either form in which kubelet names parents: "/kubepods/burstable/podUID", or the slice's name alone,
    /// "kubepods-burstable-podUID.slice", which stands for the nested slices that its hyphens name.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path.
    pub fn parse(text: &str) -> Result<CgroupPath> {
        let names = match text.strip_prefix('/') {
            Some(path) => path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            None => match slices(text) {
                Some(names) => names,
                None => {
                    return Err(wrong(
                        text,
                        "use an absolute path, or the name of a systemd slice (a-b.slice)",
                    ));
                }
            },
        };
        for name in &names {
            if matches!(name.as_str(), "." | "..") {
                return Err(wrong(text, "it must not contain \".\" or \"..\""));
            }
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                return Err(wrong(text, "its names must have at most 255 bytes and no control characters"));
            }
        }
        Ok(CgroupPath(names))
    }

    /// The names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The cgroup that this one is in; the root's is the root.
    pub fn parent(&self) -> CgroupPath {
        CgroupPath(self.0.split_last().map(|(_, parents)| parents.to_vec()).unwrap_or_default())
    }

    /// The parent's names, and the last.
    pub fn split_last(&self) -> Option<(&[String], &str)> {
        self.0.split_last().map(|(last, parents)| (parents, last.as_str()))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

/// The last name of the cgroup of the pod `id`.
pub fn name(id: &str) -> String {
    format!("husk-{id}")
}

fn wrong(parent: &str, why: &str) -> Error {
    let shown: String = parent.chars().take(200).collect();
    Error::Invalid(format!("cgroup_parent {shown:?}: {why}"))
}

/// "a-b.slice": "a.slice", "a-b.slice". None when it is no slice's name.
fn slices(text: &str) -> Option<Vec<String>> {
    let stem = text.strip_suffix(SLICE)?;
    if stem == "-" {
        return Some(Vec::new());
    }
    if text.contains('/') || stem.split('-').any(str::is_empty) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}{SLICE}", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_pod(parent: &str) -> String {
        CgroupPath::of_pod(parent, "/husk", "1").unwrap().unwrap().to_string()
    }

    #[test]
    fn both_forms_of_kubelet_are_read() {
        assert_eq!(of_pod("/kubepods/burstable/pod1-2"), "/kubepods/burstable/pod1-2/husk-1");
        assert_eq!(
            of_pod("kubepods-burstable-pod1_2.slice"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/husk-1"
        );
        let expanded = "/kubepods.slice/kubepods-pod1.slice";
        assert_eq!(of_pod(expanded), format!("{expanded}/husk-1"));
        assert_eq!(of_pod("system.slice"), "/system.slice/husk-1");
        assert_eq!(
            (of_pod("/"), of_pod("-.slice"), of_pod("//a//")),
            ("/husk-1".into(), "/husk-1".into(), "/a/husk-1".into())
        );
    }

    #[test]
    fn without_a_parent_the_default_holds() {
        assert_eq!(of_pod(""), "/husk/husk-1");
        assert_eq!(CgroupPath::of_pod("", "", "1").unwrap(), None);
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let long = format!("/{}", "a".repeat(256));
        let longer = "/a".repeat(600);
        for parent in [
            "/a/../..",
            "..",
            "/..",
            "/./a",
            "kubepods",
            "kubepods/pod1",
            "/a\0b",
            "/a\nb",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            ".slice",
            "a/b.slice",
            "../a.slice",
            "a.service",
            long.as_str(),
            longer.as_str(),
        ] {
            let error = CgroupPath::of_pod(parent, "/husk", "1").expect_err(parent);
            assert!(matches!(error, Error::Invalid(_)), "{parent:?}: {error}");
            assert!(error.to_string().contains("cgroup_parent"), "{error}");
        }
    }
}
