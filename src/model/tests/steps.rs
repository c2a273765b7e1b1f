//! How long what a step gave is kept.

use super::*;
use crate::backend::{Backend, WithBackend, start};
use crate::model::decoder::Decoder;

/// The bundled model's decoder: a step's logits are there for whoever holds
/// it, and no longer, though its sequence goes on from what it drew.
struct Kept;

impl WithBackend for Kept {
    type Output = ();

    fn with<B: Backend>(self, backend: B) {
        let files = crate::demo::files();
        let config = DecoderConfig::load(&files).unwrap();
        let mut decoder = Decoder::load(backend, config, &files, &()).unwrap();
        let kept = |decoder: &Decoder<B>, id| {
            let (_, sequence) = decoder.parts(id).unwrap();
            let (step, _) = sequence.drawn.as_ref().unwrap();
            step.output.borrow().is_some()
        };
        let [first, second] = [(); 2].map(|()| decoder.open().unwrap());
        let held = decoder.submit(&[input(first, &[1, 2, 3])]).unwrap();
        let logits = held.logits().unwrap();
        let other = decoder.submit(&[input(second, &[4, 5])]).unwrap();
        assert_ne!(other.logits().unwrap(), logits);
        drop(other);
        // What took the place of nobody's is not what somebody holds.
        drop(decoder.submit(&[input(second, &[6])]).unwrap());
        assert_eq!(held.logits().unwrap(), logits);
        assert!(kept(&decoder, first) && !kept(&decoder, second));

        let drawn = held.tokens().unwrap()[0].unwrap();
        drop(held);
        assert!(!kept(&decoder, first));
        let fork = decoder.fork(first, 3).unwrap();
        let mut next = |sequence, tokens| {
            let input = Input {
                tokens,
                ..input(sequence, &[])
            };
            decoder.submit(&[input]).unwrap().logits().unwrap()
        };
        let went_on = next(first, Tokens::Drawn);
        assert_eq!(next(fork, Tokens::Given(&[drawn])), went_on);
    }
}

#[test]
fn a_step_s_logits_go_with_it_and_what_it_drew_stays() {
    for &backend in BackendChoice::BUILT_IN {
        start(backend, Kept).unwrap();
    }
}
