//! A topology that was recorded on a real machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::synthetic::supply;
use super::{PROPERTIES, Topology, TopologyNode};
use crate::config::{ConfigError, GpuModel};

/// The kernel prints at most one page per file.
const MAX_BYTES: u64 = 64 << 10;
/// More nodes than any machine has.
const MAX_NODES: usize = 1024;
/// Folders below a node, for example `mem_banks/0`.
const MAX_DEPTH: u32 = 3;
/// Queues of one MEC, of which the kernel keeps some.
const MEC_QUEUES: u64 = 32;

impl Topology {
    /// Reads a recorded tree (the folder that holds `nodes/`, or the one above it); `model` fills what an older driver
    /// did not print.
    ///
    /// # Errors
    /// A file that is missing or malformed, with path and line.
    pub fn load(path: &Path, model: &GpuModel) -> Result<Topology, ConfigError> {
        let inner = path.join("topology");
        let top = if !path.join("nodes").is_dir() && inner.join("nodes").is_dir() { &inner } else { path };
        let generation = read(&top.join("generation_id"))?;
        let mut topology = Topology {
            generation_id: number(&top.join("generation_id"), 1, generation.trim_end())?,
            system_properties: properties(&top.join("system_properties"))?,
            nodes: nodes(&top.join("nodes"))?,
        };
        topology.check(&top.join("nodes"))?;
        topology.complete(model);
        Ok(topology)
    }

    /// Refuses what no kernel prints and the machine could not be built from.
    fn check(&self, folder: &Path) -> Result<(), ConfigError> {
        let mut owners = BTreeMap::new();
        for node in &self.nodes {
            let folder = folder.join(node.index.to_string());
            let simds = node.property("simd_count");
            if node.gpu_id == 0 && simds > 0 || node.gpu_id > 0xffff {
                return Err(fail(&folder.join("gpu_id"), Some(1), format!("{} is no gpu_id of a GPU", node.gpu_id)));
            }
            if node.gpu_id == 0 {
                continue;
            }
            if let Some(owner) = owners.insert(node.gpu_id, node.index) {
                let message = format!("gpu_id {} is that of node {owner}", node.gpu_id);
                return Err(fail(&folder.join("gpu_id"), Some(1), message));
            }
            let within = |name: &str, least: u64, most: u64, why: &str| {
                let found = node.properties.iter().position(|(n, _)| n == name);
                match found.map(|at| (at + 1, node.properties[at].1)) {
                    Some((line, value)) if !(least..=most).contains(&value) => {
                        Err(fail(&folder.join("properties"), Some(line), format!("{name} {value}: {why}")))
                    }
                    _ => Ok(()),
                }
            };
            within("simd_count", 1, 1 << 20, "a GPU has SIMDs")?;
            within("max_waves_per_simd", 1, 64, "a SIMD has 1 to 64 waves")?;
            within("num_xcc", 1, 8, "a node has 1 to 8 XCCs")?;
            within("num_cp_queues", 1, MEC_QUEUES, "a node has 1 to 32 queue slots, counted on one XCC")?;
            within("num_sdma_engines", 0, 16, "a node has at most 16 engines")?;
            within("num_sdma_xgmi_engines", 0, 16, "a node has at most 16 engines")?;
            within("num_sdma_queues_per_engine", 0, 16, "an engine has at most 16 queues")?;
            within("cwsr_size", 0, u32::MAX.into(), "the size is 32 bits")?;
        }
        if self.gpus().next().is_none() {
            return Err(fail(folder, None, "no node is a GPU".to_owned()));
        }
        Ok(())
    }

    /// Adds what an older driver did not print.
    fn complete(&mut self, model: &GpuModel) {
        let counts: Vec<u64> = self.nodes.iter().map(|n| self.siblings(n).count() as u64).collect();
        for (node, nodes) in self.nodes.iter_mut().zip(counts).filter(|(n, _)| n.gpu_id != 0) {
            let present = |name: &str| node.properties.iter().any(|(n, _)| n == name);
            let xccs = match node.property("num_xcc") {
                0 => (u64::from(model.xccs) / nodes.max(1)).max(1),
                xccs => xccs,
            };
            let missing = PROPERTIES.iter().filter(|name| !present(name));
            node.from_model =
                missing.map(|name| ((*name).to_owned(), supply(model, xccs, nodes.max(1), name))).collect();
        }
    }
}

fn nodes(folder: &Path) -> Result<Vec<TopologyNode>, ConfigError> {
    let mut indices = Vec::new();
    for name in names(folder)? {
        // Folder names are plain numbers; anything else was not written by the kernel.
        match name.parse::<u32>() {
            Ok(index) if index.to_string() == name => indices.push(index),
            _ => return Err(fail(&folder.join(&name), None, "a node's folder is named by its number".to_owned())),
        }
    }
    indices.sort_unstable();
    if indices.is_empty() || indices.len() > MAX_NODES {
        return Err(fail(folder, None, format!("holds {} nodes; 1 to {MAX_NODES} are possible", indices.len())));
    }
    indices.into_iter().map(|index| node(&folder.join(index.to_string()), index)).collect()
}

fn node(folder: &Path, index: u32) -> Result<TopologyNode, ConfigError> {
    let id = folder.join("gpu_id");
    let mut files = Vec::new();
    collect(folder, "", 0, &mut files)?;
    files.retain(|(path, _)| !["gpu_id", "name", "properties"].contains(&path.as_str()));
    files.sort();
    Ok(TopologyNode {
        index,
        gpu_id: number(&id, 1, read(&id)?.trim_end())?,
        name: read(&folder.join("name"))?.trim_end_matches('\n').to_owned(),
        properties: properties(&folder.join("properties"))?,
        files,
        from_model: Vec::new(),
    })
}

/// All files below a folder with their text.
fn collect(folder: &Path, prefix: &str, depth: u32, files: &mut Vec<(String, String)>) -> Result<(), ConfigError> {
    for name in names(folder)? {
        let (path, relative) = (folder.join(&name), format!("{prefix}{name}"));
        if !path.is_dir() {
            files.push((relative, read(&path)?));
        } else if depth < MAX_DEPTH {
            collect(&path, &format!("{relative}/"), depth + 1, files)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, ConfigError> {
    let entries = fs::read_dir(folder).map_err(|e| fail(folder, None, e.to_string()))?;
    let names = entries.map(|entry| {
        let name = entry.map_err(|e| fail(folder, None, e.to_string()))?.file_name();
        name.into_string().map_err(|name| fail(&folder.join(name), None, "the name is not UTF-8".to_owned()))
    });
    names.collect()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let about = fs::metadata(path).map_err(|e| fail(path, None, e.to_string()))?;
    if !about.is_file() || about.len() > MAX_BYTES {
        return Err(fail(path, None, format!("not a regular file of at most {MAX_BYTES} bytes")));
    }
    fs::read_to_string(path).map_err(|e| fail(path, None, e.to_string()))
}

/// A file of lines `name value`.
fn properties(path: &Path) -> Result<Vec<(String, u64)>, ConfigError> {
    parse(&read(path)?).map_err(|(line, message)| fail(path, Some(line), message))
}

/// Lines `name value` with each name once; an error is a line number and a message.
fn parse(text: &str) -> Result<Vec<(String, u64)>, (usize, String)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let pair = text.split_once(' ').and_then(|(name, value)| Some((name, value.parse().ok()?)));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err((line, format!("`{text}` is not a name, a space and a number")));
        };
        if found.iter().any(|(n, _)| n == name) {
            return Err((line, format!("{name} a second time")));
        }
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

fn number(path: &Path, line: usize, text: &str) -> Result<u32, ConfigError> {
    text.parse().map_err(|_| fail(path, Some(line), format!("`{text}` is not a number")))
}

fn fail(path: &Path, line: Option<usize>, message: String) -> ConfigError {
    ConfigError { path: path.display().to_string(), line, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    proptest! {
        #[test]
        fn any_text_is_properties_or_an_error_within_it(text in "\\PC*|([a-z_]{0,4} ?[0-9-]{0,22}\n){0,6}") {
            match parse(&text) {
                Ok(found) => prop_assert_eq!(found.len(), text.lines().count()),
                Err((line, _)) => prop_assert!((1..=text.lines().count()).contains(&line)),
            }
        }
    }
}
