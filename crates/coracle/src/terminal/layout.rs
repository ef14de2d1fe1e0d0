//! Which columns fit in a width, and how wide they are.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::listing::{Column, Cut};

/// Between two columns.
pub(super) const GAP: usize = 2;
/// Narrower than this no text is cut: its column goes instead.
const LEAST: usize = 14;

/// Columns that are shown, by index, with their widths; and those left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Index and width.
    pub(super) shown: Vec<(usize, usize)>,
    /// Indices of what does not fit.
    pub(super) left_out: Vec<usize>,
}

/// Lays columns of natural widths out in `room`; `None` when not even those that must stay fit.
pub(super) fn lay_out(columns: &[(usize, Column, usize)], room: Option<usize>) -> Option<Layout> {
    let mut kept: Vec<(usize, Column, usize)> = columns.to_vec();
    let Some(room) = room else {
        let shown = kept.iter().map(|(index, _, width)| (*index, *width)).collect();
        return Some(Layout {
            shown,
            left_out: Vec::new(),
        });
    };
    let least = |(_, column, width): &(usize, Column, usize)| match column.cut {
        Cut::Never => *width,
        _ => (*width).min(LEAST.max(column.heading.width())),
    };
    let mut left_out = Vec::new();
    while total(kept.iter().map(least)) > room {
        let (place, _) = kept
            .iter()
            .enumerate()
            .filter(|(_, (_, column, _))| column.rank > 0)
            // Of equals the last goes.
            .max_by_key(|(_, (_, column, _))| column.rank)?;
        left_out.push(kept.remove(place).0);
    }
    left_out.sort_unstable();
    let mut widths: Vec<usize> = kept.iter().map(|(_, _, width)| *width).collect();
    while total(widths.iter().copied()) > room {
        // The widest that may give gives one; what may not is never asked.
        let widest = (0..kept.len())
            .filter(|place| widths[*place] > least(&kept[*place]))
            .max_by_key(|place| widths[*place])?;
        widths[widest] -= 1;
    }
    let shown = kept.iter().map(|(index, _, _)| *index).zip(widths).collect();
    Some(Layout { shown, left_out })
}

fn total(widths: impl Iterator<Item = usize>) -> usize {
    let (count, sum) = widths.fold((0_usize, 0), |(count, sum), width| (count + 1, sum + width));
    sum + count.saturating_sub(1) * GAP
}

/// The text in at most `width` columns, an ellipsis where something is cut.
pub(super) fn fit(text: &str, width: usize, cut: Cut) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let take = |characters: &mut dyn Iterator<Item = char>| {
        let mut used = 0;
        let mut kept = Vec::new();
        for character in characters {
            used += character.width().unwrap_or(0);
            if used > room {
                break;
            }
            kept.push(character);
        }
        kept
    };
    if cut == Cut::Begin {
        let kept: String = take(&mut text.chars().rev()).into_iter().rev().collect();
        format!("…{kept}")
    } else {
        let kept: String = take(&mut text.chars()).into_iter().collect();
        format!("{kept}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Column = Column::new("NAME");
    const AGE: Column = Column::new("AGE").rank(2);
    const IMAGE: Column = Column::new("IMAGE").rank(1).cut(Cut::Begin);

    #[test]
    fn columns_go_by_rank_and_texts_are_cut_before_they_go() {
        let columns = [(0, NAME, 10), (1, AGE, 4), (2, IMAGE, 40)];
        let shown = |room| lay_out(&columns, Some(room)).map(|layout| layout.shown);
        assert_eq!(shown(80), Some(vec![(0, 10), (1, 4), (2, 40)]));
        assert_eq!(shown(40), Some(vec![(0, 10), (1, 4), (2, 22)]));
        assert_eq!(shown(28), Some(vec![(0, 10), (2, 16)]));
        assert_eq!(shown(20), Some(vec![(0, 10)]));
        assert_eq!(shown(9), None);
        assert_eq!(
            lay_out(&columns, Some(20)).map(|one| one.left_out),
            Some(vec![1, 2])
        );
        assert_eq!(lay_out(&columns, None).map(|one| one.shown.len()), Some(3));
    }

    #[test]
    fn what_is_cut_says_so_and_wide_letters_count_twice() {
        assert_eq!(fit("registry.example/app:1", 10, Cut::Begin), "…ple/app:1");
        assert_eq!(fit("registry.example/app:1", 10, Cut::End), "registry.…");
        assert_eq!(fit("日本語", 6, Cut::End), "日本語");
        assert_eq!(fit("日本語", 5, Cut::End), "日本…");
        assert_eq!(fit("日本語", 4, Cut::Begin), "…語");
    }
}
