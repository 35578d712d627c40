//! What is made of repetitions.

/// The median; the mean of the two in the middle of an even number.
///
/// # Panics
/// Without any value.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The value that so much of all, 0 to 1, does not exceed.
///
/// # Panics
/// Without any value.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// (max − min) ÷ median: how far repetitions lie apart.
///
/// # Panics
/// Without any value.
pub fn spread(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    (sorted[sorted.len() - 1] - sorted[0]) / median(values)
}

/// To four significant digits: more are noise.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::{median, quantile, rounded, spread};

    #[test]
    fn the_middle_and_the_width() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[1.0, 2.0, 4.0]), 1.5);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<_> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 100.0);
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn four_digits_stay() {
        assert_eq!(rounded(12_345.6), 12_350.0);
        assert_eq!(rounded(0.123_456), 0.123_5);
        assert_eq!(rounded(0.0), 0.0);
    }
}
