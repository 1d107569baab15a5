//! XXH64: a hash that every language has, of good quality and at a few instructions a byte.

const PRIME_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME_5: u64 = 0x27D4_EB2F_1656_67C5;

/// The hash of `input` under `seed`.
pub(super) fn xxh64(input: &[u8], seed: u64) -> u64 {
    let (stripes, mut rest) = input.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(PRIME_5)
    } else {
        of_stripes(stripes, seed)
    };
    hash = hash.wrapping_add(input.len() as u64);
    while let Some((lane, after)) = rest.split_first_chunk::<8>() {
        hash ^= round(0, u64::from_le_bytes(*lane));
        hash = hash.rotate_left(27).wrapping_mul(PRIME_1);
        hash = hash.wrapping_add(PRIME_4);
        rest = after;
    }
    if let Some((lane, after)) = rest.split_first_chunk::<4>() {
        hash ^= u64::from(u32::from_le_bytes(*lane)).wrapping_mul(PRIME_1);
        hash = hash.rotate_left(23).wrapping_mul(PRIME_2);
        hash = hash.wrapping_add(PRIME_3);
        rest = after;
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(PRIME_5);
        hash = hash.rotate_left(11).wrapping_mul(PRIME_1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 32)
}

fn of_stripes(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
        seed.wrapping_add(PRIME_2),
        seed,
        seed.wrapping_sub(PRIME_1),
    ];
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let [a, b, c, d] = lanes;
    let mut hash = a
        .rotate_left(1)
        .wrapping_add(b.rotate_left(7))
        .wrapping_add(c.rotate_left(12))
        .wrapping_add(d.rotate_left(18));
    for lane in lanes {
        hash = (hash ^ round(0, lane)).wrapping_mul(PRIME_1);
        hash = hash.wrapping_add(PRIME_4);
    }
    hash
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME_2))
        .rotate_left(31)
        .wrapping_mul(PRIME_1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference() {
        // Of `XXH64` in xxHash 0.8: every way through the function.
        const SEED: u64 = 0x0123_4567_89ab_cdef;
        let bytes: Vec<u8> = (0..=255).collect();
        let expected = [
            (0, 0, 0xef46_db37_51d8_e999),
            (0, SEED, 0x51e2_4c0e_9077_a48c),
            (1, SEED, 0xaffd_9d6b_d53c_f137),
            (3, SEED, 0x7862_33c2_fa00_6029),
            (4, SEED, 0x55b1_21e9_34df_4f1c),
            (7, SEED, 0x192e_26d5_e24e_44f4),
            (8, SEED, 0x726e_cd68_a8b5_846d),
            (12, SEED, 0x4fce_d167_d465_af03),
            (15, SEED, 0x70f5_931e_d3f8_96b2),
            (31, SEED, 0xa11a_2cdf_d573_10b1),
            (32, SEED, 0xc047_7f7f_c098_e14b),
            (36, SEED, 0x4ce4_c07b_4b33_5efa),
            (45, 0, 0x10fd_d84d_6409_abdf),
            (45, SEED, 0x8041_df55_c57c_4423),
            (63, SEED, 0x46b1_9e7a_f6c2_ca1b),
            (64, SEED, 0xa0a4_e3e6_97d6_1870),
            (100, SEED, 0x40e8_f4ec_2207_f62c),
            (256, SEED, 0x795a_eafa_cb0b_983b),
        ];
        for (length, seed, hash) in expected {
            assert_eq!(
                xxh64(&bytes[..length], seed),
                hash,
                "{length} bytes, {seed}"
            );
        }
    }
}
