//! Rating a stream of events: one meter at a time, however many events and instances there are.

use vmkeep_model::Timestamp;

use crate::book::PriceBook;
use crate::error::Error;
use crate::event::Event;
use crate::meter::{Instance, InstanceMeter};
use crate::usage::Usage;

/// A stretch of time that is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First instant.
    pub from: Timestamp,
    /// First instant after it.
    pub until: Timestamp,
}

/// Rates the events of one instance: what was used within `window`. Events before it make the state at its start; those
/// at or after its end change nothing, and neither do those behind them: a clock that went back stands still.
pub fn rate_instance<'e>(
    book: &PriceBook,
    instance: &Instance,
    events: impl IntoIterator<Item = &'e Event>,
    window: Window,
) -> Result<Vec<Usage>, Error> {
    let mut rating = Rating::new(book, instance, window);
    for event in events {
        rating.apply(event)?;
    }
    rating.finish()
}

/// One instance being rated within a window, event by event: for whoever has the events of many instances mixed.
#[derive(Debug)]
pub struct Rating<'a> {
    meter: InstanceMeter<'a>,
    window: Window,
    stage: Stage,
    usages: Vec<Usage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    Within,
    After,
}

impl<'a> Rating<'a> {
    /// Nothing happened yet.
    pub fn new(book: &'a PriceBook, instance: &'a Instance, window: Window) -> Self {
        Self { meter: InstanceMeter::new(book, instance), window, stage: Stage::Before, usages: Vec::new() }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// As [`InstanceMeter::apply`].
    pub fn apply(&mut self, event: &Event) -> Result<(), Error> {
        if event.at >= self.window.until {
            self.meter.check_time(event)?;
        }
        self.pass(event.at)?;
        if self.stage == Stage::After { Ok(()) } else { self.meter.apply(event) }
    }

    /// Cuts at the edges of the window that lie at or before `at`.
    fn pass(&mut self, at: Timestamp) -> Result<(), Error> {
        if self.stage == Stage::Before && at >= self.window.from {
            self.meter.usage_until(self.window.from)?;
            self.stage = Stage::Within;
        }
        if self.stage == Stage::Within && at >= self.window.until {
            self.usages = self.meter.usage_until(self.window.until.max(self.window.from))?;
            self.stage = Stage::After;
        }
        Ok(())
    }

    /// What was used within the window.
    ///
    /// # Errors
    /// [`Error::NoPrice`] when something has no price.
    pub fn finish(mut self) -> Result<Vec<Usage>, Error> {
        self.pass(self.window.from)?;
        self.pass(self.window.until)?;
        Ok(self.usages)
    }
}

/// Rates events of many instances, ordered by instance and number, and hands on each instance when it is done.
///
/// `describe` says what an instance is; memory holds one instance at a time, and of that no more than its state.
///
/// # Errors
/// As [`InstanceMeter::apply`]; [`Error::InstanceOrder`] when instances do not ascend, [`Error::UnknownInstance`] when
/// `describe` does not know one; and whatever `done` returns.
pub fn rate_all<'a>(
    book: &'a PriceBook,
    events: impl IntoIterator<Item = Event>,
    window: Window,
    describe: impl Fn(&Event) -> Option<&'a Instance>,
    mut done: impl FnMut(&'a Instance, Vec<Usage>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut running: Option<(&'a Instance, Rating<'a>)> = None;
    for event in events {
        if let Some((instance, _)) = &running
            && instance.id != event.instance
        {
            if event.instance < instance.id {
                return Err(Error::InstanceOrder(event.id()));
            }
            if let Some((instance, rating)) = running.take() {
                done(instance, rating.finish()?)?;
            }
        }
        if running.is_none() {
            let instance = describe(&event).filter(|instance| instance.id == event.instance);
            let instance = instance.ok_or(Error::UnknownInstance(event.id()))?;
            running = Some((instance, Rating::new(book, instance, window)));
        }
        if let Some((_, rating)) = &mut running {
            rating.apply(&event)?;
        }
    }
    running.map_or(Ok(()), |(instance, rating)| done(instance, rating.finish()?))
}
