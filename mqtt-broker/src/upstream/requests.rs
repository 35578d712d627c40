//! What a client has asked the broker for, and is not answered yet.

use crate::codec::{ReasonCode, Version, suback, unsuback};
use std::collections::VecDeque;

/// Filters whose answers may be due before nothing more is read from the client. The last packet may
/// add as many as fit into it.
const MAX_DUE: usize = 1024;

/// The packet ids of the front's own requests are below this: clients mostly count up from 1.
const OWN_IDS: u16 = u16::MAX;

/// Nothing of the broker's answer fits what it was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfit;

#[derive(Debug, Default)]
pub(super) struct Requests {
    due: VecDeque<Due>,
    /// Filters in `due`.
    due_filters: usize,
    own: u16,
}

/// An answer that is due.
#[derive(Debug)]
enum Due {
    Subscribe(u16, Vec<Asked>),
    Unsubscribe(u16, Vec<Option<ReasonCode>>),
    /// Nobody but the front asked.
    Own(u16),
}

/// What became of one filter of a SUBSCRIBE.
#[derive(Debug)]
pub(super) enum Asked {
    /// The broker decides. Whether the client did not have it before.
    Broker(Box<str>, bool),
    /// The front has decided.
    Front(ReasonCode),
}

/// What to do with an answer of the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Pass it on as it is.
    Whole,
    /// Say this instead.
    Instead(Vec<ReasonCode>),
    /// Nothing: it was the front that asked.
    Nothing,
}

impl Requests {
    /// Whether too many answers are due.
    pub(super) fn are_many(&self) -> bool {
        self.due_filters >= MAX_DUE
    }

    /// A SUBSCRIBE goes to the broker.
    pub(super) fn subscribe(&mut self, packet_id: u16, asked: Vec<Asked>) {
        self.due_filters += asked.len();
        self.due.push_back(Due::Subscribe(packet_id, asked));
    }

    /// An UNSUBSCRIBE goes to the broker: `None` is for it to decide.
    pub(super) fn unsubscribe(&mut self, packet_id: u16, codes: Vec<Option<ReasonCode>>) {
        self.due_filters += codes.len();
        self.due.push_back(Due::Unsubscribe(packet_id, codes));
    }

    /// An UNSUBSCRIBE of the front's own goes to the broker. Returns its packet id.
    pub(super) fn own_unsubscribe(&mut self) -> u16 {
        let is_due = |id: u16| {
            self.due.iter().any(|due| {
                matches!(due, Due::Subscribe(n, _) | Due::Unsubscribe(n, _) | Due::Own(n) if *n == id)
            })
        };
        let mut id = self.own.checked_sub(1).filter(|id| *id > OWN_IDS / 2).unwrap_or(OWN_IDS);
        // There are far more of them than answers are due.
        while is_due(id) {
            id = id.checked_sub(1).filter(|id| *id > OWN_IDS / 2).unwrap_or(OWN_IDS);
        }
        self.own = id;
        self.due.push_back(Due::Own(id));
        id
    }

    /// A SUBACK. Also returns the filters of new subscriptions that did not come to be.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(super) fn suback(
        &mut self,
        packet_id: u16,
        codes: &[u8],
    ) -> Result<(Answer, Vec<Box<str>>), Unfit> {
        let is_it = |due: &Due| matches!(due, Due::Subscribe(id, _) if *id == packet_id);
        let Some(Due::Subscribe(_, asked)) = self.take(is_it) else { return Err(Unfit) };
        let is_mixed = asked.iter().any(|asked| matches!(asked, Asked::Front(_)));
        let mut from_broker = codes.iter();
        let (mut all, mut failed) = (Vec::with_capacity(asked.len()), Vec::new());
        for asked in asked {
            all.push(match asked {
                Asked::Front(code) => code,
                Asked::Broker(filter, is_new) => {
                    let code = ReasonCode(*from_broker.next().ok_or(Unfit)?);
                    if code.is_error() && is_new {
                        failed.push(filter);
                    }
                    code
                }
            });
        }
        if from_broker.next().is_some() {
            return Err(Unfit);
        }
        Ok((if is_mixed { Answer::Instead(all) } else { Answer::Whole }, failed))
    }

    /// An UNSUBACK.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(super) fn unsuback(
        &mut self,
        packet_id: u16,
        codes: &[u8],
        version: Version,
    ) -> Result<Answer, Unfit> {
        let is_it = |due: &Due| match due {
            Due::Unsubscribe(id, _) | Due::Own(id) => *id == packet_id,
            Due::Subscribe(..) => false,
        };
        let asked = match self.take(is_it) {
            Some(Due::Unsubscribe(_, asked)) => asked,
            Some(Due::Own(_)) => return Ok(Answer::Nothing),
            _ => return Err(Unfit),
        };
        let is_mixed = asked.iter().any(Option::is_some);
        if version == Version::V311 {
            return Ok(Answer::Whole);
        }
        let mut from_broker = codes.iter();
        let mut all = Vec::with_capacity(asked.len());
        for code in asked {
            all.push(match code {
                Some(code) => code,
                None => ReasonCode(*from_broker.next().ok_or(Unfit)?),
            });
        }
        if from_broker.next().is_some() {
            return Err(Unfit);
        }
        Ok(if is_mixed { Answer::Instead(all) } else { Answer::Whole })
    }

    /// The first that is due, of those that may be meant.
    fn take(&mut self, is_it: impl Fn(&Due) -> bool) -> Option<Due> {
        let index = self.due.iter().position(is_it)?;
        let due = self.due.remove(index)?;
        self.due_filters -= match &due {
            Due::Subscribe(_, asked) => asked.len(),
            Due::Unsubscribe(_, codes) => codes.len(),
            Due::Own(_) => 0,
        };
        Some(due)
    }
}

impl Answer {
    /// Writes a SUBACK for the client.
    pub(super) fn suback(self, out: &mut Vec<u8>, version: Version, id: u16, whole: &[u8]) {
        match self {
            Self::Whole => out.extend_from_slice(whole),
            Self::Instead(codes) => suback(out, version, id, &codes),
            Self::Nothing => {}
        }
    }

    /// Writes an UNSUBACK for the client.
    pub(super) fn unsuback(self, out: &mut Vec<u8>, version: Version, id: u16, whole: &[u8]) {
        match self {
            Self::Whole => out.extend_from_slice(whole),
            Self::Instead(codes) => unsuback(out, version, id, &codes),
            Self::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Asked, Requests};
    use crate::codec::{ReasonCode, Version};

    #[test]
    fn answers_of_front_and_broker_are_merged_in_order() {
        let mut requests = Requests::default();
        let denied = ReasonCode::NOT_AUTHORIZED;
        requests.subscribe(
            7,
            vec![
                Asked::Broker("a".into(), true),
                Asked::Front(denied),
                Asked::Broker("c".into(), true),
                Asked::Broker("d".into(), false),
            ],
        );
        let (answer, failed) = requests.suback(7, &[1, 0x97, 0x80]).unwrap();
        let codes = [1, 0x87, 0x97, 0x80].map(ReasonCode).to_vec();
        assert_eq!((answer, failed), (Answer::Instead(codes), vec!["c".into()]));
        assert!(requests.suback(7, &[0]).is_err(), "nobody asked");
        requests.subscribe(8, vec![Asked::Broker("a".into(), false)]);
        assert!(requests.suback(8, &[0, 0]).is_err(), "too many");
    }

    #[test]
    fn what_the_front_asks_is_answered_to_nobody() {
        let mut requests = Requests::default();
        let own = requests.own_unsubscribe();
        requests.unsubscribe(own, vec![None, Some(ReasonCode::TOPIC_FILTER_INVALID)]);
        assert_eq!(requests.unsuback(own, &[0], Version::V5).unwrap(), Answer::Nothing);
        let codes = [0x11, 0x8F].map(ReasonCode).to_vec();
        let answer = requests.unsuback(own, &[0x11], Version::V5).unwrap();
        assert_eq!(answer, Answer::Instead(codes));
        assert!(requests.unsuback(own, &[0x11], Version::V5).is_err());
        let ids: Vec<_> = (0..100).map(|_| requests.own_unsubscribe()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
