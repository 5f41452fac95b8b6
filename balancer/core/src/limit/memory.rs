//! Memory: the fuller it is, the less is taken on, with room between the step up and the step down.

/// How far below a threshold the use must fall before its step is taken back, so that the two do not alternate.
const HYSTERESIS: f64 = 0.05;

/// How hard the balancer is pressed. Each level does what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    #[default]
    None,
    /// Requests of the lowest priority are refused, and idle connections are closed, the oldest first.
    Shed,
    /// Every new request and every new connection is refused.
    Refuse,
}

/// The shares of the limit at which the levels begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub shed_at: f64,
    pub refuse_at: f64,
}

/// Follows the use of memory.
#[derive(Clone, Debug)]
pub struct Meter {
    bytes_max: u64,
    thresholds: Thresholds,
    pressure: Pressure,
}

impl Pressure {
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Shed,
            _ => Self::Refuse,
        }
    }
}

impl Meter {
    pub fn new(bytes_max: u64, thresholds: Thresholds) -> Self {
        Self {
            bytes_max: bytes_max.max(1),
            thresholds,
            pressure: Pressure::None,
        }
    }

    /// Takes in how much is used, and tells what follows.
    pub fn sample(&mut self, bytes_used: u64) -> Pressure {
        let share = bytes_used as f64 / self.bytes_max as f64;
        let rising = self.level(share);
        let falling = self.level(share + HYSTERESIS);
        self.pressure = self.pressure.clamp(rising, falling);
        self.pressure
    }

    fn level(&self, share: f64) -> Pressure {
        if share >= self.thresholds.refuse_at {
            Pressure::Refuse
        } else if share >= self.thresholds.shed_at {
            Pressure::Shed
        } else {
            Pressure::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Pressure::{None, Refuse, Shed};

    #[test]
    fn pressure_rises_at_once_and_falls_with_room_between() {
        check(&[
            (0, None),
            (84, None),
            (85, Shed),
            (81, Shed),
            (79, None),
            (84, None),
            (95, Refuse),
            (91, Refuse),
            (89, Shed),
            (94, Shed),
            (200, Refuse),
            (10, None),
        ]);
    }

    #[test]
    fn levels_survive_being_a_number() {
        for level in [None, Shed, Refuse] {
            assert_eq!(Pressure::from_number(level as u8), level);
        }
    }

    fn check(samples: &[(u64, Pressure)]) {
        let thresholds = Thresholds {
            shed_at: 0.85,
            refuse_at: 0.95,
        };
        let mut meter = Meter::new(100, thresholds);
        for (used, expected) in samples {
            assert_eq!(meter.sample(*used), *expected, "{used} of 100");
        }
    }
}
