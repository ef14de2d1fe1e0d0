//! The names of a path that are still to be walked, where a symbolic link puts those of its target in front.

use std::collections::VecDeque;

use super::LayerPath;

/// As many links as Linux follows in one path.
const MOST_LINKS: usize = 40;

/// A path on its way; the root of a layer, or of a stack of them, is its `/`.
pub(crate) struct Ahead {
    names: VecDeque<Vec<u8>>,
    links: usize,
}

/// One step of a path.
pub(crate) enum Way {
    /// To the directory above, or nowhere from the root.
    Up,
    Into(Vec<u8>),
}

/// Where the names of a link's target begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Root,
    /// The directory that the link lies in.
    Here,
}

/// The links of a path lead on and on.
pub(crate) struct TooManyLinks;

impl Ahead {
    pub(crate) fn of(path: &LayerPath) -> Self {
        Self {
            names: path.components().map(<[u8]>::to_vec).collect(),
            links: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Option<Way> {
        loop {
            let name = self.names.pop_front()?;
            match &name[..] {
                b"" | b"." => {}
                b".." => return Some(Way::Up),
                _ => return Some(Way::Into(name)),
            }
        }
    }

    /// Goes on with a link's target.
    pub(crate) fn follow(&mut self, target: &[u8]) -> Result<Start, TooManyLinks> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(TooManyLinks);
        }
        for part in target.rsplit(|byte| *byte == b'/') {
            self.names.push_front(part.to_vec());
        }
        Ok(match target.first() {
            Some(b'/') => Start::Root,
            _ => Start::Here,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(ahead: &mut Ahead) -> String {
        let mut said = Vec::new();
        while let Some(step) = ahead.next() {
            said.push(match step {
                Way::Up => "^".to_owned(),
                Way::Into(name) => String::from_utf8(name).unwrap(),
            });
        }
        said.join(" ")
    }

    #[test]
    fn a_links_target_comes_before_what_follows_it_and_circles_end() {
        let mut ahead = Ahead::of(&LayerPath::root().join(b"link").join(b"x"));
        assert!(matches!(ahead.next(), Some(Way::Into(name)) if name == b"link"));
        assert!(matches!(ahead.follow(b"/usr/./lib/../y"), Ok(Start::Root)));
        assert_eq!(rest(&mut ahead), "usr lib ^ y x");
        assert!(matches!(ahead.follow(b"a//"), Ok(Start::Here)));
        assert_eq!(rest(&mut ahead), "a");
        let links = (0..100).take_while(|_| ahead.follow(b"again").is_ok()).count();
        assert_eq!(links, MOST_LINKS - 2);
    }
}
