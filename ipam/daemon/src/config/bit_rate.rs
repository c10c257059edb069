//! Rates as Kubernetes writes them: bits a second, as a quantity (`10M`, `1G`, `500Ki`).
//!
//! A parser of our own: quantities of the Kubernetes crates are strings that nobody judges, and of the grammar (apimachinery,
//! `resource.Quantity`) a rate needs whole numbers with a suffix.

use std::str::FromStr;

/// A rate between [`BitRate::LEAST`] and [`BitRate::MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitRate(u64);

impl BitRate {
    /// Bits a second: the least that `kubernetes.io/egress-bandwidth` takes.
    pub const LEAST: u64 = 1_000;
    /// Bits a second: the most that it takes.
    pub const MOST: u64 = 1_000_000_000_000_000;

    /// Bits a second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Bytes a second, rounded down.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let unit: Option<u64> = match suffix {
            "" => Some(1),
            "k" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            _ => None,
        };
        let bits = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        match bits {
            Some(bits) if (Self::LEAST..=Self::MOST).contains(&bits) => Ok(Self(bits)),
            Some(0) => Err(format!("{text:?} would stop all traffic to the internet; leave it out for no limit")),
            Some(_) => Err(format!("{text:?} is out of range; a rate is between 1k and 1000000G bits a second")),
            None => Err(format!("{text:?} is not a rate in bits a second; write a whole number with k, M, G, Ki, Mi or Gi, like \"10M\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits() {
        for (text, bytes) in [("10M", 1_250_000), ("1G", 125_000_000), ("8Ki", 1_024), ("1k", 125), ("800000", 100_000)] {
            assert_eq!(text.parse::<BitRate>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_told_with_its_remedy() {
        let cases = [
            ("0", "leave it out"),
            ("0G", "leave it out"),
            ("10x", "like \"10M\""),
            ("", "like \"10M\""),
            ("M", "like \"10M\""),
            ("-1M", "like \"10M\""),
            ("1.5G", "like \"10M\""),
            ("999", "between"),
            ("1000001G", "between"),
            ("99999999999999999999G", "like \"10M\""),
        ];
        for (text, said) in cases {
            let why = text.parse::<BitRate>().unwrap_err();
            assert!(why.contains(said) && why.contains(&format!("{text:?}")), "{text}: {why}");
        }
    }
}
