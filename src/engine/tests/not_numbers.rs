//! A sequence whose logits are not numbers, beside others.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::batching::{alone, asks, encode, expected, usage, user};
use super::*;
use crate::model::{Logits, ShortList};

/// The token that marks the prompt of the sequence that goes wrong.
const MARK: u32 = 1999;

/// The bundled model, but the first sequence that is marked draws no token
/// from its `draws`-th draw on.
struct Unsound {
    info: ModelInfo,
    inner: Box<dyn Model>,
    draws: usize,
    /// The marked sequence, and how often it has drawn.
    marked: Option<(SequenceId, usize)>,
}

impl Model for Unsound {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        self.inner.open()
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        self.inner.fork(sequence, len)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        self.inner.snapshot(sequence)
    }
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        self.inner.export(sequence, layer, len)
    }
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        self.inner.import(len, layers)
    }
    fn close(&mut self, sequence: SequenceId) {
        self.inner.close(sequence);
    }
    fn memory(&self) -> Option<MemoryUse> {
        self.inner.memory()
    }
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        let mut without = None;
        let drawing = batch.iter().filter(|input| input.draw.is_some());
        for (place, input) in drawing.enumerate() {
            if matches!(input.tokens, Tokens::Given(tokens) if tokens.contains(&MARK)) {
                self.marked.get_or_insert((input.sequence, 0));
            }
            if let Some((marked, drawn)) = &mut self.marked
                && *marked == input.sequence
            {
                without = (*drawn >= self.draws).then_some(place);
                *drawn += 1;
            }
        }
        let inner = self.inner.submit(batch)?;
        Ok(Submitted::new(Rc::new(Without { inner, without })))
    }
}

/// A step one of whose rows was no numbers.
struct Without {
    inner: Submitted,
    without: Option<usize>,
}

impl Step for Without {
    fn wait(&self) -> Result<(), ModelError> {
        self.inner.wait()
    }
    fn tokens(&self) -> Result<ShortList<Option<u32>>, ModelError> {
        let mut tokens = self.inner.tokens()?;
        if let Some(place) = self.without {
            tokens[place] = None;
        }
        Ok(tokens)
    }
    fn logits(&self) -> Result<Logits, ModelError> {
        self.inner.logits()
    }
    fn row(&self, place: usize) -> Result<Vec<f32>, ModelError> {
        self.inner.row(place)
    }
    // With it goes the inner one.
    fn forget(&self) {}
}

#[tokio::test]
async fn it_fails_alone_and_nobody_goes_on_from_it() {
    let other = [
        encode(&user("hello there")),
        encode(&user("what is 2 + 2?")),
    ];
    let marked = [&[MARK][..], &encode(&user("who are you?"))].concat();
    for &backend in BackendChoice::BUILT_IN {
        let load = move || crate::model::load(&crate::demo::files(), backend, &());
        let mut reference = load().unwrap();
        let mut alone = |prompt: &[u32]| alone(&mut *reference, prompt, 8);
        let tokens: BTreeMap<&[u32], Vec<u32>> = [&other[0], &other[1], &marked]
            .map(|prompt| (prompt.as_slice(), alone(prompt)))
            .into();
        for (overlaps, draws) in [(false, 0), (false, 3), (true, 0), (true, 3)] {
            let load = move || {
                let inner = load()?;
                let info = ModelInfo {
                    overlaps,
                    ..inner.info().clone()
                };
                let marked = None;
                Ok(Box::new(Unsound {
                    info,
                    inner,
                    draws,
                    marked,
                }) as Box<dyn Model>)
            };
            let (engine, _thread) = start(load, tokenizer(), settings(None)).await.unwrap();
            let [first, bad, third] =
                [&other[0], &marked, &other[1]].map(|prompt| engine.submit(asks(prompt, 8)));
            let (text, last) = finish(bad).await;
            let reason = "the model's logits are not numbers".to_owned();
            assert_eq!(last, Event::Failed(EngineError::Model(reason)));
            assert_eq!(text.is_empty(), draws == 0, "{text:?}");
            let what = format!("{backend:?}, overlaps: {overlaps}, from draw {draws} on");
            for (events, prompt) in [(first, &other[0]), (third, &other[1])] {
                let (text, last) = finish(events).await;
                let (reason, usage) = usage(&last);
                let got = (text, reason, usage.generated_tokens);
                assert_eq!(got, expected(&tokens[prompt.as_slice()], 8), "{what}");
            }
            // The same prompt again, which goes well now, from its beginning.
            let (text, last) = finish(engine.submit(asks(&marked, 8))).await;
            let (reason, usage) = usage(&last);
            let got = (text, reason, usage.generated_tokens);
            assert_eq!(got, expected(&tokens[marked.as_slice()], 8), "{what}");
            assert_eq!(usage.cached_tokens, 0, "{what}");
        }
    }
}
