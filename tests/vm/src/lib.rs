//! The same calls to the simulator and to the real driver, and every answer compared.
//!
//! A [`call::Step`] is one call of one actor. A [`player::Player`] makes it on a [`machine::Machine`] and writes down what
//! came back, in words that are the same on every machine ([`names`]). Two machines stand behind that seam: the simulator
//! ([`sim::SimMachine`]) and the driver of the running kernel ([`kfd::KfdMachine`]), where every actor is a process.
//! [`generate`] makes up lists of calls, [`differ`] plays them to both and prints the first difference, and [`shrink`]
//! leaves out what does not matter for it.

pub mod actor;
pub mod call;
pub mod coverage;
pub mod differ;
pub mod generate;
pub mod kfd;
pub mod list;
pub mod machine;
pub mod names;
pub mod player;
pub mod render;
pub mod shrink;
pub mod sim;
pub mod text;
