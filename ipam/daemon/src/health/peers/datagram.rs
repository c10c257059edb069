//! What goes to and fro: sixteen bytes, and a question may be longer, so that an answer is never larger than what asks for it. An answer is no
//! question: two nodes cannot be made to answer each other for ever.

/// Bytes of an answer, and of a question without what makes it longer.
pub(super) const LENGTH: usize = 16;
const QUESTION: [u8; 8] = *b"bwprobe\x01";
const ANSWER: [u8; 8] = *b"bwreply\x01";

/// Asks with a number that is not guessed.
pub(super) fn question(number: u64) -> [u8; LENGTH] {
    of(QUESTION, number)
}

/// The same, `length` bytes long, if that is more.
pub(super) fn long_question(number: u64, length: usize) -> Vec<u8> {
    let mut datagram = question(number).to_vec();
    datagram.resize(length.max(LENGTH), 0);
    datagram
}

/// The answer, if that was how a question begins.
pub(super) fn answer(datagram: &[u8]) -> Option<[u8; LENGTH]> {
    number(QUESTION, datagram).map(|number| of(ANSWER, number))
}

/// The number of an answer.
pub(super) fn answered(datagram: &[u8]) -> Option<u64> {
    number(ANSWER, datagram)
}

fn of(kind: [u8; 8], number: u64) -> [u8; LENGTH] {
    let mut datagram = [0; LENGTH];
    datagram[..8].copy_from_slice(&kind);
    datagram[8..].copy_from_slice(&number.to_be_bytes());
    datagram
}

fn number(kind: [u8; 8], datagram: &[u8]) -> Option<u64> {
    let number = datagram.strip_prefix(&kind)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_question_is_answered_and_only_its_answer_is_one() {
        let asked = question(7);
        let said = answer(&asked).unwrap();
        assert_eq!((answered(&said), answered(&asked), answer(&said)), (Some(7), None, None));
        for bad in [&[][..], &asked[..15], &[&asked[..], &[0]].concat(), &[0; 16]] {
            assert_eq!((answer(bad), answered(bad)), (None, None));
        }
        assert_eq!((long_question(7, 1_472).len(), &long_question(7, 1_472)[..LENGTH]), (1_472, &asked[..]));
        assert_eq!(long_question(7, 3), asked);
    }
}
