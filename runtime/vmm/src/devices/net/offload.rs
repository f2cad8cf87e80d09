//! Which work the guest and the host's kernel leave to each other.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};

/// A feature that says what the guest can take, and the tap's flag for the same (`linux/if_tun.h`).
const GUEST: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 0x01),
    (VIRTIO_NET_F_GUEST_TSO4, 0x02),
    (VIRTIO_NET_F_GUEST_TSO6, 0x04),
    (VIRTIO_NET_F_GUEST_ECN, 0x08),
];

/// What a tap always takes.
const HOST: [u32; 4] =
    [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN];

/// The features to offer.
pub fn features() -> u64 {
    let guest = GUEST.iter().map(|(feature, _)| *feature);
    guest.chain(HOST).fold(0, |features, feature| features | 1 << feature)
}

/// `TUN_F_*` for what a driver has accepted.
pub fn tap_flags(features: u64) -> u32 {
    let has = |feature: u32| features & 1 << feature != 0;
    // Segmentation needs checksums: the tap refuses the one without the other.
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    GUEST.iter().filter(|(feature, _)| has(*feature)).fold(0, |flags, (_, flag)| flags | flag)
}

/// Whether frames for the guest may be longer than its MTU.
pub fn large_frames(features: u64) -> bool {
    tap_flags(features) & (0x02 | 0x04) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_comes_with_checksums_only() {
        let tso = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6;
        assert_eq!((tap_flags(tso), large_frames(tso)), (0, false));
        assert_eq!(tap_flags(tso | 1 << VIRTIO_NET_F_GUEST_CSUM), 7);
        assert_eq!(tap_flags(features()), 15);
        assert!(!large_frames(1 << VIRTIO_NET_F_GUEST_CSUM));
    }
}
