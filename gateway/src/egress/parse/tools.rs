//! Finds the tool calls in an answer's content.
//!
//! Content flows through until one of the family's markers opens a region that a [`Reader`] reads.
//! A region that turns out to hold no call is content, and is looked at once more behind its first
//! character: a real call may begin inside. White space around calls is layout and left out.

use std::collections::VecDeque;

use super::{
    draft::{Draft, GIVEN_UP_AFTER, Reader, Step, TOLD_AFTER},
    family::{Opener, Syntax},
    marker::{Partial, Spaces},
    piece::Pieces,
};

/// One answer on its way.
pub(super) struct Tools {
    syntax: Syntax,
    region: Option<Region>,
    /// Read once and to be read again, then what is new.
    input: VecDeque<char>,
    spaces: Spaces,
    mark: Partial,
    /// Whether content was told.
    spoke: bool,
    /// Calls told to their end.
    calls: u32,
}

/// Where calls are being read.
struct Region {
    reader: Box<dyn Reader>,
    draft: Draft,
    /// What was read since the last call was complete, while none of it is told.
    held: String,
    /// Whether `held` begins with the region's marker.
    opened: bool,
    progress: Progress,
}

enum Progress {
    /// Nothing of the call is told.
    Held,
    /// It is told as it comes.
    Told,
    /// It is told as it was written, up to the closing marker.
    Broken(Partial),
}

// === impl Tools ===

impl Tools {
    pub(super) fn new(syntax: Syntax) -> Self {
        let region = syntax.forced().map(|reader| Region::new(reader, String::new()));
        Self {
            syntax,
            region,
            input: VecDeque::new(),
            spaces: Spaces::default(),
            mark: Partial::default(),
            spoke: false,
            calls: 0,
        }
    }

    /// Takes the next part of the content.
    pub(super) fn push(&mut self, text: &str, out: &mut Pieces) {
        self.input.extend(text.chars());
        self.drain(out);
    }

    /// The text has ended.
    pub(super) fn finish(&mut self, out: &mut Pieces) {
        while let Some(region) = self.region.take() {
            self.finish_region(region, out);
            self.drain(out);
        }
        let held = self.mark.take();
        held.chars().for_each(|c| self.say(c, out));
        let spaces = self.spaces.take();
        if self.calls == 0 {
            out.content(&spaces);
        }
    }

    fn drain(&mut self, out: &mut Pieces) {
        while let Some(c) = self.input.pop_front() {
            match self.region.take() {
                Some(region) => self.region = self.read(region, c, out),
                None => self.look(c, out),
            }
        }
    }

    /// Content, or the beginning of a region.
    fn look(&mut self, c: char, out: &mut Pieces) {
        let first = !self.spoke && self.calls == 0;
        let openers = self.syntax.openers();
        let allowed = |opener: &&Opener| first || !opener.only_first;
        let could_begin =
            |text: &str| openers.iter().filter(allowed).any(|opener| opener.text.starts_with(text));
        let no_marker = self.mark.push(c, could_begin);
        no_marker.chars().for_each(|c| self.say(c, out));
        let found = openers.iter().find(|opener| opener.text == self.mark.text());
        // What was said just now may have made a marker one that comes too late.
        let found = found.filter(|opener| !opener.only_first || !self.spoke);
        if let Some(reader) = found.and_then(|opener| self.syntax.reader(opener)) {
            self.region = Some(Region::new(reader, self.mark.take()));
        }
    }

    fn say(&mut self, c: char, out: &mut Pieces) {
        let layout = !self.spoke && self.calls > 0;
        if c.is_whitespace() {
            let first = self.spaces.push(c).filter(|_| !layout);
            first.into_iter().for_each(|c| out.content(c.encode_utf8(&mut [0; 4])));
            return;
        }
        let spaces = self.spaces.take();
        if !layout {
            out.content(&spaces);
        }
        out.content(c.encode_utf8(&mut [0; 4]));
        self.spoke = true;
    }

    /// One character of a region; gives the region back if it goes on.
    fn read(&mut self, mut region: Region, c: char, out: &mut Pieces) -> Option<Region> {
        if let Progress::Broken(mark) = &mut region.progress {
            let closer = region.reader.closer();
            let told = mark.push(c, |text| closer.is_some_and(|closer| closer.starts_with(text)));
            out.arguments(self.calls, &told);
            if Some(mark.text()) == closer {
                self.calls += 1;
                return None;
            }
            return Some(region);
        }
        let told = matches!(region.progress, Progress::Told);
        if !told {
            region.held.push(c);
        }
        let step = region.reader.read(c, &mut region.draft);
        if region.draft.complete {
            self.tell(&mut region, out);
            region.end_call();
            self.calls += 1;
        } else if step == Step::Invalid && told {
            region.progress = Progress::Broken(Partial::default());
            return self.read(region, c, out);
        } else if step == Step::Invalid {
            self.give_back(region, out);
            return None;
        } else if told || region.is_due() {
            self.tell(&mut region, out);
        } else if region.held.len() >= GIVEN_UP_AFTER {
            self.give_back(region, out);
            return None;
        }
        (step == Step::More).then_some(region)
    }

    fn finish_region(&mut self, mut region: Region, out: &mut Pieces) {
        if let Progress::Broken(mark) = &mut region.progress {
            out.arguments(self.calls, &mark.take());
            self.calls += 1;
            return;
        }
        let fit = region.reader.finish(&mut region.draft);
        let told = matches!(region.progress, Progress::Told);
        if region.draft.complete || told {
            self.tell(&mut region, out);
            self.calls += 1;
        } else if !fit {
            self.give_back(region, out);
        }
    }

    /// What of the call is not told yet.
    fn tell(&mut self, region: &mut Region, out: &mut Pieces) {
        if let Progress::Held = region.progress {
            out.call(self.calls, region.draft.name.clone().unwrap_or_default());
            region.progress = Progress::Told;
            region.held.clear();
        }
        out.arguments(self.calls, &std::mem::take(&mut region.draft.arguments));
    }

    /// The region held no call: it is content.
    fn give_back(&mut self, region: Region, out: &mut Pieces) {
        let mut held = region.held.chars();
        if region.opened {
            held.next().into_iter().for_each(|c| self.say(c, out));
        }
        held.rev().for_each(|c| self.input.push_front(c));
    }
}

// === impl Region ===

impl Region {
    fn new(reader: Box<dyn Reader>, marker: String) -> Self {
        let (draft, opened) = (Draft::default(), !marker.is_empty());
        Self { reader, draft, held: marker, opened, progress: Progress::Held }
    }

    /// Whether the call is to be told before it is complete.
    fn is_due(&self) -> bool {
        let enough = self.reader.is_certain() || self.held.len() >= TOLD_AFTER;
        enough && self.draft.has_begun()
    }

    fn end_call(&mut self) {
        self.draft = Draft::default();
        self.opened = false;
        self.progress = Progress::Held;
    }
}
