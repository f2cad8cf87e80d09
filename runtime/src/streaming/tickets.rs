//! What a client may do once, with a secret in a URL for a proof.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::node::new_id;

/// How long a ticket is good for; kubelet's own URLs last as long.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// The most tickets that wait to be used.
const MAX_WAITING: usize = 1000;

/// The most that are known, those that were used or are too old included, so that they can be told from those
/// that never were.
const MAX_KNOWN: usize = 4 * MAX_WAITING;

struct Ticket<T> {
    until: Instant,
    /// `None`: used.
    work: Option<T>,
}

/// Why a ticket is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There never was one, or long ago.
    Unknown,
    /// It was used.
    Used,
    /// It is too old.
    Expired,
}

/// The tickets.
pub struct Tickets<T> {
    known: HashMap<String, Ticket<T>>,
    /// From the oldest on.
    order: VecDeque<String>,
    waiting: usize,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Tickets { known: HashMap::new(), order: VecDeque::new(), waiting: 0 }
    }
}

impl<T> Tickets<T> {
    /// A new ticket for one piece of work: 244 random bits.
    pub fn issue(&mut self, work: T, now: Instant) -> Result<String> {
        self.forget_old(now);
        if self.waiting >= MAX_WAITING {
            return Err(Error::Exhausted(format!(
                "{MAX_WAITING} streaming URLs wait to be used; use them, or wait until they expire after {} s",
                LIFETIME.as_secs()
            )));
        }
        let token = new_id();
        self.known.insert(token.clone(), Ticket { until: now + LIFETIME, work: Some(work) });
        self.order.push_back(token.clone());
        self.waiting += 1;
        Ok(token)
    }

    /// The work of a ticket, once.
    pub fn redeem(&mut self, token: &str, now: Instant) -> std::result::Result<T, Refusal> {
        let ticket = self.known.get_mut(token).ok_or(Refusal::Unknown)?;
        if ticket.work.is_some() && ticket.until <= now {
            return Err(Refusal::Expired);
        }
        let work = ticket.work.take().ok_or(Refusal::Used)?;
        self.waiting -= 1;
        Ok(work)
    }

    /// What is too old keeps its place for a while, without its work.
    fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let Some(ticket) = self.known.get(oldest) else { break };
            if self.known.len() < MAX_KNOWN && now < ticket.until + LIFETIME {
                break;
            }
            if self.known.remove(oldest).is_some_and(|ticket| ticket.work.is_some()) {
                self.waiting -= 1;
            }
            self.order.pop_front();
        }
        for token in &self.order {
            let Some(ticket) = self.known.get_mut(token).filter(|ticket| ticket.until <= now) else { break };
            if ticket.work.take().is_some() {
                self.waiting -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let (one, two) = (tickets.issue(1, now).unwrap(), tickets.issue(2, now).unwrap());
        assert!(one.len() == 64 && one != two);
        assert_eq!(tickets.redeem(&two, now), Ok(2));
        assert_eq!(tickets.redeem(&two, now), Err(Refusal::Used));
        assert_eq!(tickets.redeem(&one, now), Ok(1));
        assert_eq!(tickets.redeem("guessed", now), Err(Refusal::Unknown));
        assert_eq!(tickets.redeem("", now), Err(Refusal::Unknown));
    }

    #[test]
    fn a_ticket_expires() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let token = tickets.issue((), now).unwrap();
        assert_eq!(tickets.redeem(&token, now + LIFETIME), Err(Refusal::Expired));
        assert_eq!(tickets.redeem(&token, now), Ok(()));
        let token = tickets.issue((), now).unwrap();
        tickets.issue((), now + 3 * LIFETIME).unwrap();
        assert_eq!(tickets.redeem(&token, now + 3 * LIFETIME), Err(Refusal::Unknown));
    }

    #[test]
    fn their_number_is_bounded_and_room_comes_back() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let tokens: Vec<String> = (0..MAX_WAITING).map(|_| tickets.issue((), now).unwrap()).collect();
        assert!(matches!(tickets.issue((), now), Err(Error::Exhausted(_))));
        tickets.redeem(&tokens[0], now).unwrap();
        tickets.issue((), now).unwrap();
        assert!(tickets.issue((), now).is_err());
        // All too old: there is room again, and a late user is told why.
        for _ in 0..MAX_WAITING {
            tickets.issue((), now + LIFETIME).unwrap();
        }
        assert!(tickets.issue((), now + LIFETIME).is_err());
        // Used ones do not pile up.
        let mut tickets = Tickets::default();
        for _ in 0..3 * MAX_KNOWN {
            let token = tickets.issue((), now).unwrap();
            tickets.redeem(&token, now).unwrap();
        }
        assert!(tickets.known.len() <= MAX_KNOWN && tickets.order.len() == tickets.known.len());
    }
}
