//! What a worker has to say, and the reports whose answers have not come.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;

use crate::pb::{ConnectRequest, Report, TaskHeartbeat, TaskRef, report::Outcome};

/// Requests stay below it where they can.
const MESSAGE_BYTES: usize = 1_000_000;

/// A report stays until its answer comes: after a resume it is sent again.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) max_items: usize,
    pub(crate) ping: i64,
    pub(crate) pong: i64,
    pub(crate) drain: bool,
    acks: Vec<TaskRef>,
    heartbeats: Vec<TaskHeartbeat>,
    unsent: VecDeque<i64>,
    unanswered: BTreeMap<i64, Report>,
    correlation: i64,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            max_items: 256,
            ping: 0,
            pong: 0,
            drain: false,
            acks: Vec::new(),
            heartbeats: Vec::new(),
            unsent: VecDeque::new(),
            unanswered: BTreeMap::new(),
            correlation: 0,
        }
    }

    pub(crate) fn acknowledge(&mut self, task: TaskRef) {
        self.acks.push(task);
    }

    pub(crate) fn report(&mut self, task: TaskRef, outcome: Outcome) {
        self.acks.retain(|ack| *ack != task);
        self.correlation += 1;
        let correlation = self.correlation;
        let report = Report { correlation, r#ref: Some(task), outcome: Some(outcome) };
        self.unanswered.insert(correlation, report);
        self.unsent.push_back(correlation);
    }

    /// Only the last heartbeat of a task goes into a message.
    pub(crate) fn heartbeat(&mut self, heartbeat: TaskHeartbeat) {
        self.heartbeats.retain(|other| other.r#ref != heartbeat.r#ref);
        self.heartbeats.push(heartbeat);
    }

    /// Gives the report that was answered. None if it was forgotten.
    pub(crate) fn answered(&mut self, correlation: i64) -> Option<Report> {
        self.unsent.retain(|unsent| *unsent != correlation);
        self.unanswered.remove(&correlation)
    }

    pub(crate) fn is_unanswered(&self, task: &TaskRef) -> bool {
        self.unanswered.values().any(|report| report.r#ref.as_ref() == Some(task))
    }

    /// Another stream carries the session: what was not answered goes out again, in its order.
    pub(crate) fn resume(&mut self) {
        self.unsent = self.unanswered.keys().copied().collect();
        self.acks.clear();
        (self.ping, self.pong) = (0, 0);
    }

    /// The session is over, and nobody would take what it had to say.
    pub(crate) fn clear(&mut self) {
        *self = Self { correlation: self.correlation, ..Self::new() };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.acks.is_empty()
            && self.heartbeats.is_empty()
            && self.unsent.is_empty()
            && (self.ping, self.pong, self.drain) == (0, 0, false)
    }

    /// Takes the next message. Heartbeats go before the reports of their tasks.
    pub(crate) fn take(&mut self) -> ConnectRequest {
        let mut message = ConnectRequest {
            ping: std::mem::take(&mut self.ping),
            pong: std::mem::take(&mut self.pong),
            drain: std::mem::take(&mut self.drain),
            ..ConnectRequest::default()
        };
        let heartbeats = self.heartbeats.len().min(self.max_items);
        message.heartbeats = self.heartbeats.drain(..heartbeats).collect();
        let mut bytes: usize = message.heartbeats.iter().map(Message::encoded_len).sum();
        while heartbeats + message.reports.len() < self.max_items {
            let Some(report) = self.unsent.front().and_then(|next| self.unanswered.get(next)) else {
                break;
            };
            bytes += report.encoded_len();
            if bytes > MESSAGE_BYTES && !message.reports.is_empty() {
                break;
            }
            message.reports.push(report.clone());
            self.unsent.pop_front();
        }
        let acks = self.acks.len().min(self.max_items);
        message.acks = self.acks.drain(..acks).collect();
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ReleaseTask;

    fn task(number: i64) -> TaskRef {
        TaskRef { task_id: number.to_string(), token: 1 }
    }

    fn released() -> Outcome {
        Outcome::Release(ReleaseTask::default())
    }

    fn correlations(message: &ConnectRequest) -> Vec<i64> {
        message.reports.iter().map(|report| report.correlation).collect()
    }

    #[test]
    fn unanswered_reports_go_out_again_in_their_order() {
        let mut outbox = Outbox::new();
        (1..=3).for_each(|number| outbox.report(task(number), released()));
        assert_eq!(correlations(&outbox.take()), [1, 2, 3]);
        assert!(outbox.is_empty());
        outbox.answered(2);
        outbox.resume();
        assert_eq!(correlations(&outbox.take()), [1, 3]);
    }

    #[test]
    fn no_message_holds_too_much() {
        let mut outbox = Outbox::new();
        outbox.max_items = 2;
        for number in 1..=3 {
            outbox.acknowledge(task(number));
            outbox.heartbeat(TaskHeartbeat { r#ref: Some(task(number)), ..Default::default() });
            outbox.report(task(number), released());
        }
        let mut said = Vec::new();
        while !outbox.is_empty() {
            let message = outbox.take();
            assert!(message.heartbeats.len() + message.reports.len() <= 2);
            assert!(message.acks.is_empty());
            said.extend(correlations(&message));
        }
        assert_eq!(said, [1, 2, 3]);
    }
}
