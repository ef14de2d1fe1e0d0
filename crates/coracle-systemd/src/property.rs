//! Properties of units in systemd's types: systemd.resource-control(5), org.freedesktop.systemd1(5).

use zbus::zvariant::Value;

/// No limit, in every property that takes a number.
pub const UNLIMITED: u64 = u64::MAX;

/// A limit of a scope, as systemd is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// Bytes (`memory.max`).
    MemoryMax(u64),
    /// Bytes (`memory.high`).
    MemoryHigh(u64),
    /// Bytes (`memory.low`).
    MemoryLow(u64),
    /// Bytes (`memory.min`).
    MemoryMin(u64),
    /// Bytes of swap alone (`memory.swap.max`).
    MemorySwapMax(u64),
    /// 1..10000 (`cpu.weight`); 0 is `cpu.idle`.
    CpuWeight(u64),
    /// Microseconds of CPU time a second (`cpu.max`).
    CpuQuotaPerSecond(u64),
    /// Microseconds of a period (`cpu.max`).
    CpuQuotaPeriod(u64),
    /// 1..10000 (`io.weight`).
    IoWeight(u64),
    /// Processes and threads (`pids.max`).
    TasksMax(u64),
    /// Processors by number (`cpuset.cpus`).
    AllowedCpus(Vec<u32>),
    /// Memory nodes by number (`cpuset.mems`).
    AllowedMemoryNodes(Vec<u32>),
}

impl Property {
    pub(crate) fn pair(&self) -> (&'static str, Value<'static>) {
        match self {
            Self::MemoryMax(bytes) => ("MemoryMax", Value::U64(*bytes)),
            Self::MemoryHigh(bytes) => ("MemoryHigh", Value::U64(*bytes)),
            Self::MemoryLow(bytes) => ("MemoryLow", Value::U64(*bytes)),
            Self::MemoryMin(bytes) => ("MemoryMin", Value::U64(*bytes)),
            Self::MemorySwapMax(bytes) => ("MemorySwapMax", Value::U64(*bytes)),
            Self::CpuWeight(weight) => ("CPUWeight", Value::U64(*weight)),
            Self::CpuQuotaPerSecond(micros) => ("CPUQuotaPerSecUSec", Value::U64(*micros)),
            Self::CpuQuotaPeriod(micros) => ("CPUQuotaPeriodUSec", Value::U64(*micros)),
            Self::IoWeight(weight) => ("IOWeight", Value::U64(*weight)),
            Self::TasksMax(tasks) => ("TasksMax", Value::U64(*tasks)),
            Self::AllowedCpus(numbers) => ("AllowedCPUs", Value::from(bits(numbers))),
            Self::AllowedMemoryNodes(numbers) => ("AllowedMemoryNodes", Value::from(bits(numbers))),
        }
    }
}

/// A bit a number, the lowest first; as many bytes as are needed.
fn bits(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let at = *number as usize / 8;
        if bytes.len() <= at {
            bytes.resize(at + 1, 0);
        }
        bytes[at] |= 1 << (number % 8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_processors_are_bits_from_the_lowest() {
        assert_eq!(bits(&[0]), [1]);
        assert_eq!(bits(&[0, 1, 2, 9]), [7, 2]);
        assert_eq!(bits(&[]), [0_u8; 0]);
    }
}
