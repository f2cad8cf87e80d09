use super::*;
use crate::config::Rate;

fn limiter(operations: u64, bytes: u64) -> Arc<Limiter> {
    let rate = |per_second| Some(Rate { per_second, burst: 1 });
    Limiter::new(RateLimit { operations: rate(operations), bytes: rate(bytes) }).unwrap()
}

fn ticket(limiter: &Arc<Limiter>) -> Ticket {
    Ticket::new(Some(limiter)).unwrap()
}

/// Waits for the timer as an event loop would.
fn called(ticket: &Ticket, patience: Duration) -> bool {
    let timer = ticket.timer().unwrap();
    let end = Instant::now() + patience;
    while !timer.fired() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn no_limit_is_no_wait() {
    assert!(Limiter::new(RateLimit::default()).is_none());
    let free = Ticket::default();
    for _ in 0..1000 {
        free.turn().unwrap().spend(u64::MAX);
    }
    assert!(free.timer().is_none());
}

#[test]
fn both_limits_hold() {
    // A thousand operations a second, and a thousand bytes.
    let (few, small) = (limiter(1000, u64::MAX), limiter(u64::MAX, 1000));
    for (limiter, bytes) in [(few, 1), (small, 1)] {
        let ticket = ticket(&limiter);
        let begin = Instant::now();
        for _ in 0..100 {
            let turn = loop {
                match ticket.turn() {
                    Some(turn) => break turn,
                    None => assert!(called(&ticket, SOON)),
                }
            };
            turn.spend(bytes);
        }
        assert!(begin.elapsed() >= Duration::from_millis(45), "{:?}", begin.elapsed());
    }
}

#[test]
fn those_who_wait_have_their_turns_one_after_the_other() {
    let limiter = limiter(u64::MAX, 1000);
    let [first, second, third] = [(); 3].map(|()| ticket(&limiter));
    first.turn().unwrap().spend(10);
    for ticket in [&second, &first, &third] {
        assert!(ticket.turn().is_none());
    }
    let mut order = Vec::new();
    for _ in 0..9 {
        let came = [&first, &second, &third].map(|ticket| called(ticket, SHORT));
        assert_eq!(came.iter().filter(|came| **came).count(), 1, "{came:?}");
        let who = came.iter().position(|came| *came).unwrap();
        let ticket = [&first, &second, &third][who];
        ticket.turn().expect("its turn has come").spend(10);
        assert!(ticket.turn().is_none(), "others wait");
        order.push(who);
    }
    assert_eq!(order, [1, 0, 2, 1, 0, 2, 1, 0, 2]);
}

#[test]
fn who_leaves_or_has_nothing_to_do_holds_up_nobody() {
    let limiter = limiter(u64::MAX, 1000);
    let [first, second, third] = [(); 3].map(|()| ticket(&limiter));
    first.turn().unwrap().spend(10);
    for ticket in [&first, &second, &third] {
        assert!(ticket.turn().is_none());
    }
    first.leave();
    assert!(!called(&first, SHORT));
    assert!(called(&second, SOON));
    // Its queue is empty by now.
    drop(second.turn().unwrap());
    assert!(called(&third, SOON));
    third.turn().unwrap().spend(1);
    assert!(!called(&second, SHORT));
}
