//! Hardware addresses as text.

/// The six bytes of "02:42:ac:11:00:02". None for anything else, and for group addresses.
pub fn parse(text: &str) -> Option<[u8; 6]> {
    const GROUP: u8 = 1;
    let mut parts = text.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & GROUP == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_of_six_bytes() {
        assert_eq!(parse("02:42:ac:11:00:fE"), Some([2, 0x42, 0xac, 0x11, 0, 0xfe]));
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "+2:42:ac:11:00:02",
            "03:42:ac:11:00:02",
            "02-42-ac-11-00-02",
            "02:42:ac:11:00:0g",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
