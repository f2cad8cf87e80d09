//! Who a container's process runs as, from its own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use husk_proto::agent::{ResolvedUser, User};

use crate::error::{Context, Error, Result};
use crate::inroot::Root;

/// The most supplementary groups a process gets (the kernel's `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// A user as the container's files know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// Ids; `groups` begins with the primary one.
    pub user: ResolvedUser,
    /// The home directory, `/` when the files name none.
    pub home: String,
}

/// Reads the two files below `root` and resolves `user` against them.
pub fn resolve_in(root: &Root, user: &User) -> Result<Identity> {
    let read = |name: &str| {
        let content = root.read(Path::new(name)).context(|| format!("reading the container's {name}"))?;
        Ok(content.unwrap_or_default())
    };
    resolve(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Resolves `user` against the content of the two files.
pub fn resolve(user: &User, passwd: &[u8], group: &[u8]) -> Result<Identity> {
    let (name, group_name) = match user.name.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user.name.as_str(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let account = accounts(passwd).find(|a| a.name == name.as_bytes());
    let account = match (account, number(name)) {
        (Some(account), _) => Some(account),
        (None, Some(uid)) => accounts(passwd).find(|a| a.uid == uid),
        (None, None) => {
            return Err(Error::Invalid(format!("user {name:?} is not in the container's /etc/passwd")));
        }
    };
    let uid = match &account {
        Some(account) => account.uid,
        None => number(name).unwrap_or(0),
    };
    let gid = match (user.gid, group_name) {
        (Some(gid), _) => valid(gid)?,
        (None, Some(name)) if !name.is_empty() => group_id(name, group)?,
        (None, _) => account.as_ref().map_or(0, |a| a.gid),
    };

    let mut groups = vec![gid];
    for &extra in &user.supplemental_groups {
        push_new(&mut groups, valid(extra)?);
    }
    if !user.strict_groups
        && let Some(account) = &account
    {
        for (_, gid, members) in group_lines(group) {
            if groups.len() < MAX_GROUPS && members.split(|b| *b == b',').any(|m| m == account.name) {
                push_new(&mut groups, gid);
            }
        }
    }
    let home = account.map_or(&b""[..], |a| a.home);
    Ok(Identity { user: ResolvedUser { uid, gid, groups }, home: home_directory(home) })
}

struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    passwd.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = bytes_number(fields.nth(1)?)?;
        let gid = bytes_number(fields.next()?)?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn group_lines(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    group.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = bytes_number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(name: &str, group: &[u8]) -> Result<u32> {
    group_lines(group)
        .find(|(known, ..)| *known == name.as_bytes())
        .map(|(_, gid, _)| gid)
        .or_else(|| number(name))
        .ok_or_else(|| Error::Invalid(format!("group {name:?} is not in the container's /etc/group")))
}

fn push_new(groups: &mut Vec<u32>, gid: u32) {
    if !groups.contains(&gid) {
        groups.push(gid);
    }
}

/// The largest id, 2^32 - 1, means "unchanged" to setresuid(2) and its like: it is nobody's.
fn valid(id: u32) -> Result<u32> {
    if id == u32::MAX { Err(Error::Invalid(format!("{id} is not a group id"))) } else { Ok(id) }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

fn bytes_number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok().and_then(number)
}

/// The home of an image's passwd goes into the environment, so it must look like a path.
fn home_directory(home: &[u8]) -> String {
    match std::str::from_utf8(home) {
        Ok(home) if home.starts_with('/') && !home.contains(char::is_control) => home.to_owned(),
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/var/cache/nginx:/bin/false\n\
        bad\nnoid:x:::\n1234:x:55:56::relative:/bin/sh\nweird:x:77:77::/ho\x01me:\n";
    const GROUP: &[u8] = b"root:x:0:\nnginx:x:102:\nwww:x:33:nginx,other\nlog:x:40:nginx\nbroken\n";

    fn user(name: &str) -> User {
        User { name: name.to_owned(), ..User::default() }
    }

    fn ids(user: &User) -> (u32, u32, Vec<u32>) {
        let identity = resolve(user, PASSWD, GROUP).unwrap();
        (identity.user.uid, identity.user.gid, identity.user.groups)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids(&user("")), (0, 0, vec![0]));
        assert_eq!(ids(&user("nginx")), (101, 102, vec![102, 33, 40]));
        assert_eq!(ids(&user("101")), (101, 102, vec![102, 33, 40]));
        assert_eq!(ids(&user("5000")), (5000, 0, vec![0]));
        assert_eq!(ids(&user("5000:6000")), (5000, 6000, vec![6000]));
        assert_eq!(ids(&user("nginx:www")), (101, 33, vec![33, 40]));
        assert_eq!(ids(&user("nginx:")), (101, 102, vec![102, 33, 40]));
        assert_eq!(ids(&user(":33")), (0, 33, vec![33]));
        // A name of digits is a name first.
        assert_eq!(ids(&user("1234")), (55, 56, vec![56]));
    }

    #[test]
    fn the_requests_groups() {
        let mut nginx = User { gid: Some(7), supplemental_groups: vec![9, 33, 9], ..user("nginx") };
        assert_eq!(ids(&nginx), (101, 7, vec![7, 9, 33, 40]));
        nginx.strict_groups = true;
        assert_eq!(ids(&nginx), (101, 7, vec![7, 9, 33]));
    }

    #[test]
    fn homes() {
        let home = |name: &str| resolve(&user(name), PASSWD, GROUP).unwrap().home;
        assert_eq!(home("nginx"), "/var/cache/nginx");
        assert_eq!(home("5000"), "/");
        assert_eq!(home("1234"), "/");
        assert_eq!(home("weird"), "/");
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        for name in
            ["nobody", "noid", "-1", "+1", "nginx:nogroup", "4294967295", "99999999999", "1:4294967295"]
        {
            assert!(matches!(resolve(&user(name), PASSWD, GROUP), Err(Error::Invalid(_))), "{name}");
        }
        let max = User { gid: Some(u32::MAX), ..user("0") };
        assert!(resolve(&max, PASSWD, GROUP).is_err());
    }

    #[test]
    fn without_files_numbers_work() {
        assert_eq!(resolve(&user("7:8"), b"", b"").unwrap().user.gid, 8);
        assert!(resolve(&user("root"), b"", b"").is_err());
    }
}
