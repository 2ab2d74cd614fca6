//! Order statistics for the tables.

/// The median, and the first and third quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) first: f64,
    pub(crate) median: f64,
    pub(crate) third: f64,
}

/// Returns the quartiles of values in any order.
pub(crate) fn quartiles(mut values: Vec<f64>) -> Quartiles {
    values.sort_by(f64::total_cmp);
    Quartiles {
        first: percentile(&values, 0.25),
        median: percentile(&values, 0.5),
        third: percentile(&values, 0.75),
    }
}

/// Returns a percentile of sorted values by the nearest-rank method. `share` is 0.5 for the median.
///
/// Returns the default value if there are no values.
pub(crate) fn percentile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let sorted = [1, 2, 3, 4, 5];
        let found = [0.0, 0.2, 0.21, 0.5, 0.99, 1.0].map(|share| percentile(&sorted, share));
        assert_eq!(found, [1, 1, 2, 3, 5, 5]);
        assert_eq!(percentile::<u32>(&[], 0.5), 0);
    }

    #[test]
    fn quartiles_accept_unsorted_values() {
        let expected = Quartiles {
            first: 1.0,
            median: 2.0,
            third: 3.0,
        };
        assert_eq!(quartiles(vec![4.0, 2.0, 1.0, 3.0]), expected);
    }
}
