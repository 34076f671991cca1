//! Queries on their way to the host and back.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// How many queries may be without an answer, and for how long.
const MAX_OUTSTANDING: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);

/// A query for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub number: u64,
    pub message: Bytes,
    pub tcp: bool,
    pub name_server: Ipv4Addr,
}

/// What one who asks holds: a place among the queries.
pub type Place = OwnedSemaphorePermit;

/// The queries of one network, and whoever carries them to the host.
pub struct Forwarder {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The last number given.
    number: u64,
    outstanding: HashMap<u64, oneshot::Sender<Bytes>>,
    unsent: VecDeque<Query>,
    /// Which carrier is the present one.
    carrier: u64,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_OUTSTANDING)),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Forwarder {
    /// A place, if one is free.
    pub fn place(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// A place, as soon as one is free.
    pub async fn wait_for_place(&self) -> Place {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// What the host answers; empty if there is no answer to be had, and None if it keeps silent.
    pub async fn ask(&self, message: Bytes, tcp: bool, name_server: Ipv4Addr, _place: Place) -> Option<Bytes> {
        let (tell, told) = oneshot::channel();
        let outstanding = self.send(message, tcp, name_server, tell);
        let answer = tokio::time::timeout(PATIENCE, told).await;
        drop(outstanding);
        answer.ok()?.ok()
    }

    fn send(&self, message: Bytes, tcp: bool, name_server: Ipv4Addr, tell: oneshot::Sender<Bytes>) -> Outstanding<'_> {
        let mut state = self.state();
        state.number += 1;
        let number = state.number;
        state.outstanding.insert(number, tell);
        state.unsent.push_back(Query {
            number,
            message,
            tcp,
            name_server,
        });
        self.changed.notify_waiters();
        Outstanding {
            forwarder: self,
            number,
        }
    }

    /// Becomes the carrier, in place of another.
    pub fn take_over(&self) -> u64 {
        let mut state = self.state();
        state.carrier += 1;
        self.changed.notify_waiters();
        state.carrier
    }

    /// The next query for this carrier; None when another has taken over.
    pub async fn next(&self, carrier: u64) -> Option<Query> {
        loop {
            // Before the look, so that no change is missed in between.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if state.carrier != carrier {
                    return None;
                }
                if let Some(query) = state.unsent.pop_front() {
                    return Some(query);
                }
            }
            changed.await;
        }
    }

    /// Passes on the answer to a query; one that is not waited for is dropped.
    pub fn answer(&self, number: u64, message: Bytes) {
        if let Some(tell) = self.state().outstanding.remove(&number) {
            // Whoever asked may just have lost patience.
            let _ = tell.send(message);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is locked")
    }
}

/// A query that is forgotten with this.
struct Outstanding<'a> {
    forwarder: &'a Forwarder,
    number: u64,
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        let mut state = self.forwarder.state();
        state.outstanding.remove(&self.number);
        state.unsent.retain(|query| query.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

    async fn ask(forwarder: &Forwarder, message: &'static str) -> Option<Bytes> {
        let place = forwarder.wait_for_place().await;
        forwarder.ask(message.into(), false, SERVER, place).await
    }

    #[tokio::test]
    async fn answers_find_their_queries_in_any_order() {
        let forwarder = Forwarder::default();
        let carrier = forwarder.take_over();
        let host = async {
            let one = forwarder.next(carrier).await.unwrap();
            let two = forwarder.next(carrier).await.unwrap();
            assert_eq!((one.number, two.number), (1, 2));
            forwarder.answer(two.number, two.message);
            forwarder.answer(7, "nobody's".into());
            forwarder.answer(one.number, one.message);
        };
        let (one, two, ()) = tokio::join!(ask(&forwarder, "one"), ask(&forwarder, "two"), host);
        assert_eq!((one, two), (Some("one".into()), Some("two".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_without_an_answer_is_forgotten_and_its_place_is_free() {
        let forwarder = Forwarder::default();
        assert_eq!(ask(&forwarder, "one").await, None);
        assert!(forwarder.state().unsent.is_empty());
        assert_eq!(forwarder.places.available_permits(), MAX_OUTSTANDING);
    }

    #[tokio::test]
    async fn a_later_carrier_takes_over() {
        let forwarder = Forwarder::default();
        let first = forwarder.take_over();
        let second = async {
            tokio::task::yield_now().await;
            forwarder.take_over()
        };
        let (ended, _) = tokio::join!(forwarder.next(first), second);
        assert_eq!(ended, None);
    }
}
