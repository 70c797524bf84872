"""Everything comes from settings.ini: each key `X_requirements` there is the extra `X`, and `all` joins them (but
flash, which needs CUDA to build)."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {k[:-len('_requirements')]: v.split() for k, v in cfg.items() if k.endswith('_requirements')}
extras['all'] = sorted({r for k, rs in extras.items() if k != 'flash' for r in rs})

setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
      author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0',
      classifiers=['Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
      long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
      python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(), extras_require=extras,
      packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']), zip_safe=False,
      package_data={cfg['lib_path']: ['assets/*', 'assets/*/*']},
      entry_points={'console_scripts': ['osnb=opensora_nb.app.cli:main'],
                    'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]})
