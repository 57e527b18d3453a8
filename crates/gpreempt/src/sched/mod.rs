//! Who is online, and what to do about it: the scheduler executes what a policy decides.
//!
//! [`policy`] decides (pure functions), the state machine keeps the books, and [`Scheduler`] executes. One scheduler
//! serves any number of threads:
//!
//! * an online request holds an [`OnlineGuard`]; guards nest, and dropping the last one ends the online window;
//! * offline queues are registered one by one or as whole processes, whose later queues are caught, too;
//! * whatever the scheduler holds comes back when it is dropped, and through the driver's watchdog should it hang.

mod builder;
mod domain;
mod execute;
mod gang;
mod guard;
mod intake;
mod online;
mod plan;
pub mod policy;
mod scheduler;
mod share;
mod shared;
mod state;
mod ticker;
mod timeline;
mod verdict;

pub use builder::SchedulerBuilder;
pub use guard::OnlineGuard;
pub use scheduler::{Scheduler, Scope, Step};
