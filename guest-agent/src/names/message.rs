//! DNS messages, as far as one who passes them on must understand them (RFC 1035, RFC 6891).

/// A message's fixed part.
const HEADER: usize = 12;

/// The most that an asker without EDNS takes over UDP.
const PLAIN_UDP: usize = 512;

/// The type of EDNS's record, whose class is the size of the asker's buffer.
const OPT: u16 = 41;

// Bits of the header's third and fourth byte.
const RESPONSE: u8 = 0x80;
const OPERATION: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;

/// Whether a message can be a query.
pub fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & RESPONSE == 0
}

/// How long an answer over UDP may be to this query.
pub fn udp_limit(query: &[u8]) -> usize {
    edns_size(query).map_or(PLAIN_UDP, |size| PLAIN_UDP.max(size.into()))
}

/// An answer without its records, which tells the asker to come again over TCP. None if it is no answer at all.
pub fn truncated(answer: &[u8]) -> Option<Vec<u8>> {
    let mut short = without_records(answer)?;
    short[2] |= TRUNCATED;
    Some(short)
}

/// The answer that a query cannot be answered.
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let mut answer = without_records(query)?;
    answer[2] = RESPONSE | answer[2] & (OPERATION | RECURSION_DESIRED);
    answer[3] = RECURSION_AVAILABLE | SERVER_FAILURE;
    Some(answer)
}

/// Header and question alone; a question that cannot be read is left out.
fn without_records(message: &[u8]) -> Option<Vec<u8>> {
    let questions = questions_end(message);
    let mut short = message.get(..questions.unwrap_or(HEADER))?.to_vec();
    if questions.is_none() {
        short[4..6].fill(0);
    }
    short[6..HEADER].fill(0);
    Some(short)
}

fn edns_size(query: &[u8]) -> Option<u16> {
    let mut at = questions_end(query)?;
    let records: u32 = [6, 8, 10]
        .iter()
        .map(|at| u32::from(number(query, *at).unwrap_or(0)))
        .sum();
    for _ in 0..records {
        at = name_end(query, at)?;
        if number(query, at)? == OPT {
            return number(query, at + 2);
        }
        at += 10 + usize::from(number(query, at + 8)?);
    }
    None
}

/// Where the questions end, if they lie within the message.
fn questions_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    for _ in 0..number(message, 4)? {
        at = name_end(message, at)? + 4;
    }
    (at <= message.len()).then_some(at)
}

fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            // A pointer to where the rest of the name is.
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.bc`, with what follows the question.
    fn query(additional: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, additional.len() as u8];
        message.extend(b"\x01a\x02bc\0\0\x01\0\x01");
        message.extend(additional.concat());
        message
    }

    const EDNS: &[u8] = &[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];
    const OTHER: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 2, 9, 9];

    #[test]
    fn the_limit_is_that_of_edns_and_never_below_512() {
        assert_eq!(udp_limit(&query(&[])), 512);
        assert_eq!(udp_limit(&query(&[EDNS])), 4096);
        assert_eq!(udp_limit(&query(&[OTHER, EDNS])), 4096);
        let mut small = query(&[EDNS]);
        let end = small.len();
        small[end - 8..end - 6].copy_from_slice(&[0, 9]);
        assert_eq!(udp_limit(&small), 512);
    }

    #[test]
    fn what_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = query(&[OTHER, EDNS]);
        for length in 0..whole.len() {
            let limit = udp_limit(&whole[..length]);
            assert!(limit == 512 || length > whole.len() - 8, "{length}");
            assert_eq!(failure(&whole[..length]).is_some(), length >= HEADER);
        }
        let endless = [&whole[..HEADER], &[63; 300]].concat();
        assert_eq!(failure(&endless).unwrap().len(), HEADER);
    }

    #[test]
    fn a_failure_repeats_the_question() {
        let answer = failure(&query(&[EDNS])).unwrap();
        assert_eq!(answer[..HEADER], [0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[HEADER..], query(&[])[HEADER..]);
    }

    #[test]
    fn a_truncated_answer_has_no_records() {
        let mut answer = query(&[OTHER]);
        answer[2] = 0x85;
        let short = truncated(&answer).unwrap();
        assert_eq!(short[..HEADER], [0x12, 0x34, 0x87, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(short.len(), query(&[]).len());
    }

    #[test]
    fn answers_and_fragments_are_no_queries() {
        assert!(is_query(&query(&[])));
        assert!(!is_query(&query(&[])[..HEADER - 1]));
        assert!(!is_query(&failure(&query(&[])).unwrap()));
    }
}
