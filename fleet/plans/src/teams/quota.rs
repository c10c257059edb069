//! How many nodes of a pool each claim gets.
//!
//! Nodes are handed out one after the other, and whom the next one goes to depends on those before it alone: a pool with one node more gives
//! each claim what it had, and one of them, or the commons, one more. Shares by largest remainder do not have this property (the Alabama
//! paradox); by Sainte-Laguë's divisors they do.

use super::Claim;

struct Seat {
    minimum: u64,
    /// Most, of those with a count.
    count: Option<u64>,
    percent: u64,
    has: u64,
}

/// What each of `claims` gets of `nodes`, in their order; the rest is common. Minima first, then counts, then shares of what is left.
#[must_use]
pub fn quotas(claims: &[&Claim], nodes: u64) -> Vec<u64> {
    let seat = |claim: &&Claim| Seat {
        minimum: claim.minimum().into(),
        count: claim.count.map(u64::from),
        percent: claim.percent.unwrap_or(0).into(),
        has: 0,
    };
    let mut seats: Vec<_> = claims.iter().map(seat).collect();
    let shared: u64 = seats.iter().map(|seat| seat.percent).sum();
    let mut common = Seat { minimum: 0, count: None, percent: 100_u64.saturating_sub(shared), has: 0 };
    let mut left = nodes;
    left -= hand_out(&mut seats, left, |seat| if seat.has < seat.minimum { seat.minimum } else { 0 });
    left -= hand_out(&mut seats, left, |seat| seat.count.filter(|count| seat.has < *count).unwrap_or(0));
    seats.push(common);
    hand_out(&mut seats, left, |seat| seat.percent);
    common = seats.remove(claims.len());
    debug_assert!(common.has <= nodes);
    seats.into_iter().map(|seat| seat.has).collect()
}

/// One node after the other to whoever has the largest `weight / (2 · has + 1)`; how many were taken.
fn hand_out(seats: &mut [Seat], nodes: u64, weight: impl Fn(&Seat) -> u64) -> u64 {
    for handed in 0..nodes {
        let mut next: Option<(u64, u64, usize)> = None;
        for (index, seat) in seats.iter().enumerate() {
            let (weight, divisor) = (weight(seat), 2 * seat.has + 1);
            // Counts are below 2³², and so are nodes: the products are below 2⁶⁵ in theory and tiny in practice.
            let is_larger = next.is_none_or(|(other, by, _)| u128::from(weight) * u128::from(by) > u128::from(other) * u128::from(divisor));
            if weight > 0 && is_larger {
                next = Some((weight, divisor, index));
            }
        }
        match next {
            Some((_, _, index)) => seats[index].has += 1,
            None => return handed,
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(count: Option<u32>, percent: Option<u32>, min: Option<u32>) -> Claim {
        Claim { pool: "p".to_owned(), count, percent, min }
    }

    #[test]
    fn minima_then_counts_then_shares() {
        let claims = [claim(Some(10), None, Some(4)), claim(None, Some(50), Some(2)), claim(None, Some(25), None)];
        let of = |nodes| quotas(&claims.iter().collect::<Vec<_>>(), nodes);
        assert_eq!(of(6), [4, 2, 0]);
        assert_eq!(of(12), [10, 2, 0]);
        assert_eq!(of(110), [10, 50, 25], "a minimum that was met is part of the share");
        assert_eq!(of(0), [0, 0, 0]);
    }
}
