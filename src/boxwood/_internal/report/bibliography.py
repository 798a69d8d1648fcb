"""The papers whose methods Boxwood implements."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper.

    Args:
        key: of its BibTeX entry.
        authors: surnames and given names, separated by " and ".
        year: of publication.
        title: as printed.
        venue: where it appeared.
        arxiv: identifier, empty where there is none.
        also: other years by which it is cited, such as that of its preprint.
    """

    key: str
    authors: str
    year: int
    title: str
    venue: str
    arxiv: str = ""
    also: tuple[int, ...] = ()

    @property
    def surnames(self) -> tuple[str, ...]:
        """Surnames of the authors.

        Example:
            >>> PAPERS[0].surnames
            ('Han', 'Pool', 'Tran', 'Dally')
        """
        return tuple(author.partition(",")[0] for author in self.authors.split(" and "))

    @property
    def bibtex(self) -> str:
        """The entry, ready to paste.

        Example:
            >>> print(PAPERS[0].bibtex.splitlines()[0])
            @misc{han2015learning,
        """
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "year": str(self.year),
            "howpublished": self.venue,
        }
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{self.key},\n{lines}\n}}"


PAPERS = (
    Paper("han2015learning", "Han, Song and Pool, Jeff and Tran, John and Dally, William J.", 2015, "Learning both Weights and Connections for Efficient Neural Networks", "NeurIPS", "1506.02626"),
    Paper("frankle2019lottery", "Frankle, Jonathan and Carbin, Michael", 2019, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", "ICLR", "1803.03635"),
    Paper("frankle2019stabilizing", "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael", 2019, "Stabilizing the Lottery Ticket Hypothesis", "arXiv", "1903.01611"),
    Paper("frankle2020linear", "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael", 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", "ICML", "1912.05671"),
    Paper("renda2020comparing", "Renda, Alex and Frankle, Jonathan and Carbin, Michael", 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", "ICLR", "2003.02389"),
    Paper("zhu2017prune", "Zhu, Michael and Gupta, Suyog", 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression", "arXiv", "1710.01878", also=(2018,)),
    Paper("blalock2020state", "Blalock, Davis and Gonzalez Ortiz, Jose Javier and Frankle, Jonathan and Guttag, John", 2020, "What is the State of Neural Network Pruning?", "MLSys", "2003.03033"),
    Paper("lecun1990optimal", "LeCun, Yann and Denker, John S. and Solla, Sara A.", 1990, "Optimal Brain Damage", "NeurIPS", also=(1989,)),
    Paper("hassibi1993second", "Hassibi, Babak and Stork, David G.", 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", "NeurIPS", also=(1992,)),
    Paper("dong2017learning", "Dong, Xin and Chen, Shangyu and Pan, Sinno Jialin", 2017, "Learning to Prune Deep Neural Networks via Layer-wise Optimal Brain Surgeon", "NeurIPS", "1705.07565"),
    Paper("frantar2022optimal", "Frantar, Elias and Alistarh, Dan", 2022, "Optimal Brain Compression: A Framework for Accurate Post-Training Quantization and Pruning", "NeurIPS", "2208.11580"),
    Paper("frantar2023sparsegpt", "Frantar, Elias and Alistarh, Dan", 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", "ICML", "2301.00774"),
    Paper("kwon2022fast", "Kwon, Woosuk and Kim, Sehoon and Mahoney, Michael W. and Hassoun, Joseph and Keutzer, Kurt and Gholami, Amir", 2022, "A Fast Post-Training Pruning Framework for Transformers", "NeurIPS", "2204.09656"),
    Paper("sun2024simple", "Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico", 2024, "A Simple and Effective Pruning Approach for Large Language Models", "ICLR", "2306.11695", also=(2023,)),
    Paper("yin2024outlier", "Yin, Lu and Wu, You and Zhang, Zhenyu and Hsieh, Cheng-Yu and Wang, Yaqing and Jia, Yiling and others", 2024, "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High Sparsity", "ICML", "2310.05175"),
    Paper("zhang2024plug", "Zhang, Yingtao and Bai, Haoli and Lin, Haokun and Zhao, Jialin and Hou, Lu and Cannistraci, Carlo Vittorio", 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", "ICLR"),
    Paper("zhang2024dynamic", "Zhang, Yuxin and Zhao, Lirui and Lin, Mingbao and Sun, Yunyun and Yao, Yiwu and Han, Xingjia and Tanner, Jared and Liu, Shiwei and Ji, Rongrong", 2024, "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs", "ICLR", "2310.08915"),
    Paper("meng2024alps", "Meng, Xiang and Behdin, Kayhan and Wang, Haoyue and Mazumder, Rahul", 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", "NeurIPS", "2406.07831"),
    Paper("lu2024alphapruning", "Lu, Haiquan and Zhou, Yefan and Liu, Shiwei and Wang, Zhangyang and Mahoney, Michael W. and Yang, Yaoqing", 2024, "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning of Large Language Models", "NeurIPS", "2410.10912"),
    Paper("yang2023test", "Yang, Yaoqing and Theisen, Ryan and Hodgkinson, Liam and Gonzalez, Joseph E. and Ramchandran, Kannan and Martin, Charles H. and Mahoney, Michael W.", 2023, "Test Accuracy vs. Generalization Gap: Model Selection in NLP without Accessing Training or Testing Data", "KDD", "2202.02842"),
    Paper("guo2024ebft", "Guo, Song and Wu, Fan and Zhang, Lei and Zheng, Xiawu and Zhang, Shengchuan and Chao, Fei and Shi, Yiyu and Ji, Rongrong", 2024, "EBFT: Effective and Block-Wise Fine-Tuning for Sparse LLMs", "arXiv", "2402.12419"),
    Paper("lee2019snip", "Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.", 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", "ICLR", "1810.02340"),
    Paper("wang2020picking", "Wang, Chaoqi and Zhang, Guodong and Grosse, Roger", 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow", "ICLR", "2002.07376"),
    Paper("tanaka2020pruning", "Tanaka, Hidenori and Kunin, Daniel and Yamins, Daniel L. K. and Ganguli, Surya", 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow", "NeurIPS", "2006.05467"),
    Paper("frankle2021pruning", "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael", 2021, "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?", "ICLR", "2009.08576"),
    Paper("sanh2020movement", "Sanh, Victor and Wolf, Thomas and Rush, Alexander M.", 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", "NeurIPS", "2005.07683"),
    Paper("lee2021layer", "Lee, Jaeho and Park, Sejun and Mo, Sangwoo and Ahn, Sungsoo and Shin, Jinwoo", 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning", "ICLR", "2010.07611"),
    Paper("evci2020rigging", "Evci, Utku and Gale, Trevor and Menick, Jacob and Castro, Pablo Samuel and Elsen, Erich", 2020, "Rigging the Lottery: Making All Tickets Winners", "ICML", "1911.11134"),
    Paper("mocanu2018scalable", "Mocanu, Decebal Constantin and Mocanu, Elena and Stone, Peter and Nguyen, Phuong H. and Gibescu, Madeleine and Liotta, Antonio", 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science", "Nature Communications", "1707.04780"),
    Paper("theis2018faster", "Theis, Lucas and Korshunova, Iryna and Tejani, Alykhan and Huszár, Ferenc", 2018, "Faster gaze prediction with dense networks and Fisher pruning", "arXiv", "1801.05787"),
    Paper("molchanov2017pruning", "Molchanov, Pavlo and Tyree, Stephen and Karras, Tero and Aila, Timo and Kautz, Jan", 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", "ICLR", "1611.06440"),
    Paper("molchanov2019importance", "Molchanov, Pavlo and Mallya, Arun and Tyree, Stephen and Frosio, Iuri and Kautz, Jan", 2019, "Importance Estimation for Neural Network Pruning", "CVPR", "1906.10771"),
    Paper("li2017pruning", "Li, Hao and Kadav, Asim and Durdanovic, Igor and Samet, Hanan and Graf, Hans Peter", 2017, "Pruning Filters for Efficient ConvNets", "ICLR", "1608.08710"),
    Paper("liu2017learning", "Liu, Zhuang and Li, Jianguo and Shen, Zhiqiang and Huang, Gao and Yan, Shoumeng and Zhang, Changshui", 2017, "Learning Efficient Convolutional Networks through Network Slimming", "ICCV", "1708.06519"),
    Paper("he2019filter", "He, Yang and Liu, Ping and Wang, Ziwei and Hu, Zhilan and Yang, Yi", 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", "CVPR", "1811.00250"),
    Paper("lin2020hrank", "Lin, Mingbao and Ji, Rongrong and Wang, Yan and Zhang, Yichen and Zhang, Baochang and Tian, Yonghong and Shao, Ling", 2020, "HRank: Filter Pruning using High-Rank Feature Map", "CVPR", "2002.10179"),
    Paper("mishra2021accelerating", "Mishra, Asit and Albericio Latorre, Jorge and Pool, Jeff and Stosic, Darko and Stosic, Dusan and Venkatesh, Ganesh and Yu, Chong and Micikevicius, Paulius", 2021, "Accelerating Sparse Deep Neural Networks", "arXiv", "2104.08378"),
    Paper("huang2018learning", "Huang, Qiangui and Zhou, Kevin and You, Suya and Neumann, Ulrich", 2018, "Learning to Prune Filters in Convolutional Neural Networks", "WACV", "1801.07365"),
    Paper("williams1992simple", "Williams, Ronald J.", 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", "Machine Learning"),
    Paper("long2015fully", "Long, Jonathan and Shelhamer, Evan and Darrell, Trevor", 2015, "Fully Convolutional Networks for Semantic Segmentation", "CVPR", "1411.4038"),
    Paper("badrinarayanan2017segnet", "Badrinarayanan, Vijay and Kendall, Alex and Cipolla, Roberto", 2017, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", "IEEE TPAMI", "1511.00561"),
    Paper("hinton2015distilling", "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff", 2015, "Distilling the Knowledge in a Neural Network", "arXiv", "1503.02531"),
    Paper("hinton2012improving", "Hinton, Geoffrey E. and Srivastava, Nitish and Krizhevsky, Alex and Sutskever, Ilya and Salakhutdinov, Ruslan R.", 2012, "Improving neural networks by preventing co-adaptation of feature detectors", "arXiv", "1207.0580"),
    Paper("romero2015fitnets", "Romero, Adriana and Ballas, Nicolas and Ebrahimi Kahou, Samira and Chassang, Antoine and Gatta, Carlo and Bengio, Yoshua", 2015, "FitNets: Hints for Thin Deep Nets", "ICLR", "1412.6550"),
    Paper("bekas2007estimator", "Bekas, Costas and Kokiopoulou, Efi and Saad, Yousef", 2007, "An estimator for the diagonal of a matrix", "Applied Numerical Mathematics"),
    Paper("glorot2010understanding", "Glorot, Xavier and Bengio, Yoshua", 2010, "Understanding the difficulty of training deep feedforward neural networks", "AISTATS"),
    Paper("kingma2015adam", "Kingma, Diederik P. and Ba, Jimmy", 2015, "Adam: A Method for Stochastic Optimization", "ICLR", "1412.6980", also=(2014,)),
    Paper("lecun1998gradient", "LeCun, Yann and Bottou, Léon and Bengio, Yoshua and Haffner, Patrick", 1998, "Gradient-based learning applied to document recognition", "Proceedings of the IEEE"),
    Paper("xiao2017fashion", "Xiao, Han and Rasul, Kashif and Vollgraf, Roland", 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", "arXiv", "1708.07747"),
    Paper("krizhevsky2009learning", "Krizhevsky, Alex", 2009, "Learning multiple layers of features from tiny images", "Technical report, University of Toronto"),
    Paper("krizhevsky2014weird", "Krizhevsky, Alex", 2014, "One weird trick for parallelizing convolutional neural networks", "arXiv", "1404.5997"),
    Paper("simonyan2014very", "Simonyan, Karen and Zisserman, Andrew", 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", "ICLR 2015", "1409.1556", also=(2015,)),
    Paper("he2015deep", "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian", 2015, "Deep Residual Learning for Image Recognition", "CVPR 2016", "1512.03385", also=(2016,)),
    Paper("russakovsky2014imagenet", "Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and others", 2014, "ImageNet Large Scale Visual Recognition Challenge", "IJCV 2015", "1409.0575", also=(2015,)),
    Paper("alpaydin1998optical", "Alpaydin, Ethem and Kaynak, Cenk", 1998, "Optical Recognition of Handwritten Digits", "UCI Machine Learning Repository"),
)  # fmt: skip
