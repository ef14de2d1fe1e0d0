//! Signals by name: CRI numbers them alphabetically, the kernel does not.

use coracle_proto::cri;
use coracle_types::signal::Signal;

use super::{FieldError, known};

/// `None` for the zero value, "the runtime's default".
pub(crate) fn from_wire(field: &str, number: i32) -> Result<Option<Signal>, FieldError> {
    let signal: cri::Signal = known(field, number)?;
    Ok(by_name(signal))
}

fn by_name(signal: cri::Signal) -> Option<Signal> {
    let name = signal.as_str_name().strip_prefix("SIGNAL_")?;
    // SIGRTMINPLUS3 is SIGRTMIN+3, SIGRTMAXMINUS3 is SIGRTMAX-3.
    name.replace("PLUS", "+").replace("MINUS", "-").parse().ok()
}

/// The first name of a signal's number: aliases (SIGCLD, SIGIOT, SIGPOLL) come after.
pub(crate) fn to_wire(signal: Signal) -> cri::Signal {
    (1..)
        .map_while(|number| cri::Signal::try_from(number).ok())
        .find(|candidate| by_name(*candidate) == Some(signal))
        .unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_not_numbers() {
        for (wire, kernel) in [
            (cri::Signal::Sigterm, 15),
            (cri::Signal::Sigkill, 9),
            (cri::Signal::Sigcld, 17),
            (cri::Signal::Sigiot, 6),
            (cri::Signal::Sigrtmin, 34),
            (cri::Signal::Sigrtminplus15, 49),
            (cri::Signal::Sigrtmaxminus14, 50),
            (cri::Signal::Sigrtmax, 64),
        ] {
            let signal = from_wire("stop_signal", wire as i32).unwrap().unwrap();
            assert_eq!(signal.number(), kernel, "{wire:?}");
        }
        assert_eq!(from_wire("stop_signal", 0), Ok(None));
        for bad in [-1, 66, i32::MAX] {
            let text = from_wire("stop_signal", bad).unwrap_err().to_string();
            assert!(
                text.contains("stop_signal") && text.contains(&bad.to_string()),
                "{text}"
            );
        }
    }

    #[test]
    fn every_name_has_a_signal_and_every_signal_its_name() {
        for number in 1..=65 {
            let signal = from_wire("s", number).unwrap().unwrap();
            let back = to_wire(signal);
            assert_eq!(from_wire("s", back as i32), Ok(Some(signal)));
        }
        // 32 and 33 are glibc's own and have no name.
        for number in (1..=31).chain(34..=64) {
            assert_ne!(
                to_wire(Signal::try_from(number).unwrap()),
                cri::Signal::RuntimeDefault,
                "{number}"
            );
        }
        assert_eq!(to_wire(Signal::try_from(17).unwrap()), cri::Signal::Sigchld);
    }
}
