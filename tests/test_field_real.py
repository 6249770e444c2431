"""Objects of a catalog lie in the middle of their stamps on images that telescopes took."""

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from astroray import surveys


def peaks_in_the_middle(shards, reach_px=1):
    """Share of stamps whose brightest pixel is the middle one or beside it."""
    found = []
    for shard in shards:
        for rows in surveys.read_shard(shard):
            middle = rows.image_BCYX.shape[-1] // 2
            for stamp_YX in rows.image_BCYX.mean(axis=1):
                place = np.unravel_index(np.nanargmax(stamp_YX), stamp_YX.shape)
                found.append(max(abs(place[0] - middle), abs(place[1] - middle)) <= reach_px)
    return len(found), np.mean(found)


def test_wise_exposures_with_distortions_in_fk5(real_data, tmp_path):
    images = f"{real_data}/wise/images/*int-1b.fits.gz"
    detected = surveys.list_shards(f"{images}?format=fields&threshold=8").shards[0]
    rows = list(surveys.read_shard(detected))
    ra_N, dec_N = (np.concatenate([getattr(r, k) for r in rows]) for k in ("ra_deg_B", "dec_deg_B"))
    Table({"ra": ra_N, "dec": dec_N}).write(tmp_path / "c.fits")
    shards = surveys.list_shards(f"{images}?format=fields&size=11&catalog={tmp_path}/c.fits").shards
    assert len(shards) == 2  # exposures of one part of the sky
    num, share = peaks_in_the_middle(shards)
    assert num == len(ra_N)  # each is cut once
    assert share > 0.9


def test_a_spitzer_image_in_galactic_coordinates(real_data, tmp_path):
    folder = real_data / "restoration/fits_fields"
    table = Table.read(folder / "spitzer_example_catalog.xml.gz", format="votable")
    place = SkyCoord(table["l"], table["b"], frame="galactic", unit="deg").icrs
    Table({"ra": place.ra.deg, "dec": place.dec.deg}).write(tmp_path / "c.ecsv")
    image = f"{folder}/spitzer_example_image.fits.gz"
    survey = f"{image}?format=fields&size=11&catalog={tmp_path}/c.ecsv"
    num, share = peaks_in_the_middle(surveys.list_shards(survey).shards)
    assert num == len(table)
    assert share > 0.95


def test_three_bands_of_one_field_are_one_image(real_data):
    survey = f"{real_data}/restoration/fits_fields/decam_img_*.fits.gz?format=fields&threshold=5"
    (shard,) = surveys.list_shards(f"{survey}&bands=g,r,z&size=11").shards
    assert len(shard.inputs) == 3
    num, share = peaks_in_the_middle([shard])
    assert num > 100
    assert share > 0.75  # of a galaxy, or beside a star, the mean of the bands peaks elsewhere
