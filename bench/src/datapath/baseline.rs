//! The program that returns at once: what the kernel's account and the call of any program take, measured in the same run.
//!
//! It is attached as Barewire's are (clsact, direct action), to both ends of a veth that nobody else uses, and sees the same
//! load. Two instructions need no compiler: they are put into an object file here, as a loader expects it.

use std::mem;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use crate::contender::Pods;
use crate::datapath::cluster::{Cluster, Contender, Ends, Site};

/// The program's name, as the kernel tells it: as long as a name can be.
pub const NAME: &str = "returns_at_once";

/// `r0 = 0; exit`: the packet goes on (`TC_ACT_OK`).
const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The program at work.
#[derive(Debug)]
pub struct Baseline {
    pair: Cluster,
    id: u32,
    _loaded: Ebpf,
}

impl Baseline {
    /// Attaches it to a new pair of namespaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(site: &Site<'_>, names: &mut Pods) -> Result<Self> {
        let pair = Cluster::build(Contender::Floor, site, names)?;
        let mut loaded = Ebpf::load(&object_file()?).context("cannot load the program that returns at once")?;
        let program: &mut SchedClassifier = loaded.program_mut(NAME).context("the object has no program")?.try_into()?;
        program.load()?;
        for node in 0..2 {
            let _home = pair.node(node).enter()?;
            tc::qdisc_add_clsact("eth0").context("cannot add a clsact qdisc")?;
            let options = TcAttachOptions::Netlink(NlOptions::default());
            let link = program.attach_with_options("eth0", TcAttachType::Ingress, options).context("cannot attach a filter")?;
            // It goes with its device; to detach it, one would have to be in the device's namespace.
            mem::forget(program.take_link(link)?);
        }
        let id = program.info()?.id();
        Ok(Self { pair, id, _loaded: loaded })
    }

    /// Where the load goes.
    ///
    /// # Errors
    /// Never: a pair has two ends.
    pub fn ends(&self) -> Result<Ends<'_>> {
        self.pair.within()?.context("a pair has two ends")
    }

    /// The program's number in the kernel.
    #[must_use]
    pub fn program(&self) -> u32 {
        self.id
    }
}

fn object_file() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(text, INSTRUCTIONS.as_flattened(), 8);
    object.add_symbol(Symbol {
        name: NAME.as_bytes().to_vec(),
        value: 0,
        size: INSTRUCTIONS.as_flattened().len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    object.write().context("cannot write an object file")
}

#[cfg(test)]
mod tests {
    use object::read::elf::ElfFile64;
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::*;

    #[test]
    fn the_object_holds_one_program_of_two_instructions() {
        let file = object_file().unwrap();
        let object: ElfFile64<'_> = ElfFile64::parse(&*file).unwrap();
        let text = object.section_by_name("classifier").unwrap();
        assert_eq!(text.data().unwrap(), INSTRUCTIONS.as_flattened());
        let symbol = object.symbol_by_name(NAME).unwrap();
        assert_eq!((symbol.size(), symbol.section_index()), (16, Some(text.index())));
        assert!(NAME.len() < 16, "the kernel would cut it");
    }
}
