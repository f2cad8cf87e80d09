//! The two directions over a socket pair in the tap's place: both keep frames apart.

use std::os::unix::net::UnixDatagram;

use vm_memory::{Bytes, GuestAddress};

use super::rx::{Pause, Receiver};
use super::*;
use crate::memory::Memory;
use crate::virtio::QueueError;
use crate::virtio::testing::{Driver, activation, memory};

const BUFFERS: u64 = 0x8000;

fn tap() -> (UnixDatagram, UnixDatagram) {
    let (tap, other) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (tap, other)
}

fn tally() -> (statistics::Shared, Tally) {
    let totals = statistics::Shared::default();
    (totals.clone(), Tally::new(0, 0, totals))
}

/// A frame with its header, numbered through.
fn frame(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| i as u8).collect()
}

#[test]
fn a_long_frame_is_spread_over_mergeable_buffers() {
    let memory = memory();
    let driver = Driver::new(&memory);
    let mut active = activation(&Memory::new(memory.clone()), 1, 0);
    let (tap, other) = tap();
    let (totals, tally) = tally();
    let mut receiver = Receiver::new(true, 1000);
    for index in 0..3 {
        driver.offer(index, index, &[(BUFFERS + u64::from(index) * 0x1000, 400, true)]);
    }
    other.send(&frame(900)).unwrap();
    other.send(&frame(20)).unwrap();
    let mut serve = |receiver: &mut Receiver| {
        receiver.serve(&mut active.queues[0], tap.as_fd(), &Ticket::default(), &tally, 10).unwrap()
    };
    // 1200 bytes were enough for any frame; what is left is not.
    assert_eq!(serve(&mut receiver), Pause::NoBuffers);
    assert_eq!(driver.used(), (3, 2, 100));
    let mut got = vec![0; 400];
    memory.read_slice(&mut got, GuestAddress(BUFFERS)).unwrap();
    let mut expected = frame(900)[..400].to_vec();
    expected[10..12].copy_from_slice(&[3, 0]);
    assert_eq!(got, expected);
    memory.read_slice(&mut got[..100], GuestAddress(BUFFERS + 0x2000)).unwrap();
    assert_eq!(got[..100], frame(900)[800..]);
    for index in 3..6 {
        driver.offer(index, index, &[(BUFFERS + u64::from(index) * 0x1000, 400, true)]);
    }
    assert_eq!(serve(&mut receiver), Pause::NoBuffers);
    assert_eq!(driver.used(), (4, 3, 20));
    driver.offer(6, 0, &[(BUFFERS, 400, true)]);
    assert_eq!(serve(&mut receiver), Pause::TapEmpty);
    assert_eq!(totals.net_rx_bytes.get(), 888 + 8);
}

#[test]
fn frames_are_dropped_rather_than_cut() {
    let memory = memory();
    let driver = Driver::new(&memory);
    let mut active = activation(&Memory::new(memory.clone()), 1, 0);
    let (tap, other) = tap();
    let (totals, tally) = tally();
    let mut receiver = Receiver::new(false, 1000);
    driver.offer(0, 0, &[(BUFFERS, 100, true)]);
    other.send(&frame(101)).unwrap();
    other.send(&frame(5)).unwrap();
    other.send(&frame(100)).unwrap();
    let pause = receiver.serve(&mut active.queues[0], tap.as_fd(), &Ticket::default(), &tally, 3).unwrap();
    assert_eq!(pause, Pause::Turn);
    assert_eq!((driver.used(), totals.net_drops.get()), ((1, 0, 100), 2));
}

#[test]
fn a_buffer_without_room_for_the_header_does_not_stop_the_rest() {
    let memory = memory();
    let driver = Driver::new(&memory);
    let mut active = activation(&Memory::new(memory.clone()), 1, 0);
    let (tap, other) = tap();
    let (totals, tally) = tally();
    let mut receiver = Receiver::new(true, 100);
    driver.offer(0, 0, &[(BUFFERS, 5, true)]);
    driver.offer(1, 1, &[(BUFFERS + 0x1000, 100, true)]);
    driver.offer(2, 2, &[(BUFFERS + 0x2000, 100, true)]);
    other.send(&frame(50)).unwrap();
    other.send(&frame(60)).unwrap();
    receiver.serve(&mut active.queues[0], tap.as_fd(), &Ticket::default(), &tally, 2).unwrap();
    assert_eq!((driver.used(), totals.net_drops.get()), ((3, 2, 60), 0));
}

#[test]
fn frames_of_impossible_length_are_not_sent() {
    let memory = memory();
    let driver = Driver::new(&memory);
    let mut active = activation(&Memory::new(memory.clone()), 1, 0);
    let (tap, other) = tap();
    let (totals, tally) = tally();
    memory.write_slice(&frame(64), GuestAddress(BUFFERS)).unwrap();
    driver.offer(0, 0, &[(BUFFERS, 25, false)]);
    driver.offer(1, 1, &[(BUFFERS, 64, false), (BUFFERS, 70_000, false)]);
    driver.offer(2, 3, &[(BUFFERS, 1, false), (BUFFERS + 1, 63, false)]);
    let more = tx::serve(&mut active.queues[0], tap.as_fd(), &Ticket::default(), &tally, 10).unwrap();
    assert_eq!(more, tx::Pause::Empty);
    assert_eq!((driver.used().0, totals.net_drops.get(), totals.net_tx_bytes.get()), (3, 2, 52));
    let mut got = [0; 100];
    assert_eq!(other.recv(&mut got).unwrap(), 64);
    assert_eq!(got[..64], frame(64));
    assert!(other.recv(&mut got).is_err());
}

#[test]
fn a_driver_that_offers_one_buffer_again_and_again_is_stopped() {
    let memory = memory();
    let driver = Driver::new(&memory);
    let mut active = activation(&Memory::new(memory.clone()), 1, 0);
    let (tap, _other) = tap();
    let mut receiver = Receiver::new(true, 60_000);
    let mut outcome = Ok(Pause::NoBuffers);
    for index in 0..300 {
        driver.offer(index, 0, &[(BUFFERS, 12, true)]);
        outcome = receiver.serve(&mut active.queues[0], tap.as_fd(), &Ticket::default(), &tally().1, 1);
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(QueueError::Overcommitted)));
}
