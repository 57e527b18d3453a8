//! Cost models: what each elementary step takes, and who says so.

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::source::{self, Source};

/// The models that are built in, by name.
const BUILTIN: &[(&str, &str)] = &[
    ("design", include_str!("../../models/cost/design.toml")),
    ("hws", include_str!("../../models/cost/hws.toml")),
    ("conservative", include_str!("../../models/cost/conservative.toml")),
    ("stock-debug", include_str!("../../models/cost/stock-debug.toml")),
];

/// One elementary cost with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Nanoseconds.
    pub ns: u64,
    /// The page or measurement the figure is from.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFigure {
    ns: Option<Spanned<f64>>,
    us: Option<Spanned<f64>>,
    ms: Option<Spanned<f64>>,
    source: Spanned<String>,
}

impl RawFigure {
    fn check(self, span: std::ops::Range<usize>, file: Source<'_>) -> Result<Figure, ConfigError> {
        let ns = match (self.ns, self.us, self.ms) {
            (Some(ns), None, None) => file.duration(ns, 1.0, 0)?,
            (None, Some(us), None) => file.duration(us, 1e3, 0)?,
            (None, None, Some(ms)) => file.duration(ms, 1e6, 0)?,
            _ => return Err(file.blame(span, "a figure has exactly one of ns, us and ms")),
        };
        let source = file.check(self.source, |s| !s.trim().is_empty(), "a figure says where it is from")?;
        Ok(Figure { ns, source })
    }
}

/// The figures are listed once: in the public struct, in the file format and in [`CostModel::figures`].
macro_rules! cost_model {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// A named set of elementary costs. Every modelled time is a sum of these times what was counted.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct CostModel {
            /// The name that every figure made with it is labelled with.
            pub name: String,
            /// One sentence: what this model stands for.
            pub about: String,
            $($(#[$doc])* pub $field: Figure,)*
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RawCostModel {
            name: Spanned<String>,
            about: String,
            base: Option<Spanned<String>>,
            $($field: Option<Spanned<RawFigure>>,)*
        }

        impl CostModel {
            /// All figures with their names in the file, in file order.
            pub fn figures(&self) -> Vec<(&'static str, &Figure)> {
                vec![$((stringify!($field), &self.$field),)*]
            }

            fn check(raw: RawCostModel, file: Source<'_>) -> Result<CostModel, ConfigError> {
                let base = raw.base.map(|name| CostModel::base(name, file)).transpose()?;
                Ok(CostModel {
                    name: file.check(raw.name, |n| !n.trim().is_empty(), "a model has a name")?,
                    about: raw.about,
                    $($field: match (raw.$field, &base) {
                        (Some(figure), _) => {
                            let span = figure.span();
                            figure.into_inner().check(span, file)?
                        }
                        (None, Some(base)) => base.$field.clone(),
                        (None, None) => {
                            let message = format!("no [{}], and no base to take it from", stringify!($field));
                            return Err(file.blame_file(message));
                        }
                    },)*
                })
            }
        }
    };
}

cost_model! {
    /// Entering and leaving any KFD ioctl, per call.
    ioctl,
    /// Marking one queue under the dqm lock.
    mark_queue,
    /// Driver time to write the packets of one UNMAP round (UNMAP_QUEUES, QUERY_STATUS, fence), per round.
    submit_unmap,
    /// Driver time to build and submit one runlist, per round.
    submit_runlist,
    /// Firmware: taking all dynamic queues of a node off its HQDs, per round, without wave save.
    hws_unmap,
    /// Firmware: picking up a runlist, per RUN_LIST.
    hws_runlist,
    /// Firmware: mapping one queue of a runlist.
    hws_map_queue,
    /// CWSR: saving the state of one live wave (the XCCs of a node save in parallel).
    wave_save,
    /// CWSR: restoring one saved wave (the XCCs of a node restore in parallel).
    wave_restore,
    /// Firmware: changing the mapped set of an over-subscribed runlist, per slice, without wave save.
    hws_slice,
    /// How long an over-subscribed runlist keeps one mapped set.
    slice,
    /// DBG_TRAP ENABLE, once per target, on top of its rounds.
    debug_enable,
    /// What DBG_TRAP SUSPEND_QUEUES takes on top of its rounds, per call.
    debug_suspend,
    /// What DBG_TRAP RESUME_QUEUES takes on top of its rounds, per call.
    debug_resume,
    /// Copying the saved wave state of one queue to user memory (SUSPEND copies all queues of the process).
    debug_copy_queue,
    /// DBG_TRAP GET_QUEUE_SNAPSHOT, per queue.
    debug_snapshot_queue,
    /// What UPDATE_QUEUE takes on top of its round (root BO reservation, MQD rewrite), per call.
    update_queue,
    /// Reset of one queue that did not yield, on top of the latency after which HWS gives up on it.
    queue_reset,
    /// Reset of one node after HWS stopped answering.
    node_reset,
}

impl CostModel {
    /// The names of the models that are built in.
    pub fn builtin() -> Vec<&'static str> {
        BUILTIN.iter().map(|(name, _)| *name).collect()
    }

    /// A built-in model by its name, or the model of a file by its path.
    ///
    /// # Errors
    /// Unknown name, unreadable file, or a file that says something impossible (with its line).
    pub fn named(name_or_path: &str) -> Result<CostModel, ConfigError> {
        CostModel::parse(name_or_path, &source::find("cost model", name_or_path, BUILTIN, &CostModel::builtin())?)
    }

    /// A model from the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// What is wrong in the text, with its line.
    pub fn parse(path: &str, text: &str) -> Result<CostModel, ConfigError> {
        let file = Source { path, text };
        let raw: RawCostModel = file.parse()?;
        let slice = raw.slice.as_ref().map(Spanned::span);
        let model = CostModel::check(raw, file)?;
        if let (0, Some(span)) = (model.slice.ns, slice) {
            return Err(file.blame(span, "a slice of no length would never end"));
        }
        Ok(model)
    }

    /// A built-in model that another one is made from; only built-in ones, so that no chain can close.
    fn base(name: Spanned<String>, file: Source<'_>) -> Result<CostModel, ConfigError> {
        let Some((name, text)) = BUILTIN.iter().find(|(n, _)| n == name.get_ref()) else {
            let names = CostModel::builtin().join(", ");
            return Err(file.blame(name.span(), format!("base is one of the built-in models: {names}")));
        };
        CostModel::parse(name, text)
    }
}
